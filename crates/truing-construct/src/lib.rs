//! Stages that make training data with models (report 3.2, 3.3, 4): each is a [`Stage`](truing_stages::Stage) whose
//! calls are planned before the first, and kept, so that none is paid twice.

pub mod prefer;
