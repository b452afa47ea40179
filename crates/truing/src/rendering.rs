//! How conversations are rendered, in every command.

use truing_text::RenderOptions;

/// Templates that print today's date get one that never changes, Llama 3's own default: a run that is resumed on
/// another day, or made again, shall read the same texts.
pub(crate) fn render_options() -> RenderOptions {
    let date = jiff::civil::date(2024, 7, 26);
    RenderOptions { now: Some(date.at(0, 0, 0, 0)), ..RenderOptions::default() }
}
