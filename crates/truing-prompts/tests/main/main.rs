//! Templates on real prompts with known templates, and what must hold for any pool.

mod real_templates;
