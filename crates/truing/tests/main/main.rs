//! The command line as a user meets it: the real binary, its streams and exit statuses.

mod basics;
mod command;
mod inspect;
mod sft;
mod talk;
mod tiny_model;
