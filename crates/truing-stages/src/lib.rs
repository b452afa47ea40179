//! One readable straight-line program per stage, and the recipes that describe them. No command line and no
//! terminal here.

pub mod prove;
pub mod recipe;

pub use recipe::{Recipe, RecipeError, RecipePlace};
