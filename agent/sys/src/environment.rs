//! Environment variables of a process that already runs.

/// Sets a variable.
///
/// The standard library serialises its own readers with this; C code that reads the environment (name look-ups,
/// time zones) is not. So this is for the beginning of a daemon's life only: before the first name is looked up and
/// the first child is started.
pub fn set_early(name: &str, value: &str) {
    // SAFETY: no C code reads the environment at the same time, by the contract above.
    unsafe { std::env::set_var(name, value) }
}
