//! Crashes: the engine, shims and imports are killed at any moment, disks fill up, descriptors run out.
//! Nothing that was promised may be lost, and nothing may be left behind.
//!
//! `YARE_ROUNDS` sets how often the killing goes on, `YARE_SOAK=1` makes it long, `YARE_SEED` repeats a run.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests may")]

mod api;
mod builds;
mod chance;
mod engine_kill;
mod exhaustion;
mod faults;
mod faulty_line;
mod full_disks;
mod half_images;
mod leaks;
mod load;
mod networks;
mod pulls;
mod registry;
mod replaced_binary;
mod restarts;
mod shim_kill;
mod volumes;
