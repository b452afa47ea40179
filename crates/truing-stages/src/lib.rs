//! One readable straight-line program per stage.
