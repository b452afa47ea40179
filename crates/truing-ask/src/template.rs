//! Prompts to models as text files, one in English and one in Chinese.

use truing_reward::asking::fill_in;

use crate::pas::Language;

/// A text in English and in Chinese.
pub(crate) struct Template(pub(crate) [&'static str; 2]);

impl Template {
    /// Fills `{{name}}` places in one pass. The line break at the end of the file is not part of the text.
    pub(crate) fn fill(&self, language: Language, values: &[(&str, &str)]) -> String {
        fill_in(self.0[language as usize].trim_end(), values)
    }
}
