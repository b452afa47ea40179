//! Objectives, schedules, the memory planner, the algorithm-blind trainer, training checkpoints.
