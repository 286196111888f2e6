//! A program that is nothing but a slot, for tests and measurements: daemons execute themselves.

fn main() {
    kiln_sys::launcher::launcher_main();
    std::process::exit(2);
}
