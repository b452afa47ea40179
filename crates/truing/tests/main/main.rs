//! The command line as a user meets it: the real binary, its streams and exit statuses.

mod basics;
mod command;
mod sft;
mod tiny_model;
