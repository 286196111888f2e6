//! Kernel modules, in the order that the image was made with.

use std::ffi::CStr;
use std::fs::{self, File};

use anyhow::Context as _;

/// What the guest needs before it can speak to the host.
pub(super) const EARLY: &str = "/etc/kiln/modules.early";
/// The rest.
pub(super) const LATE: &str = "/etc/kiln/modules.late";

/// Loads a list. A list that isn't there is a kernel that needs none.
pub(super) fn load(list: &str) -> anyhow::Result<Vec<String>> {
    let names = match fs::read_to_string(list) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(list.to_owned()),
    };
    let failures = names.lines().filter_map(|name| {
        let failure = load_one(name).err()?;
        Some(format!("module {name}: {failure:#}"))
    });
    Ok(failures.collect())
}

fn load_one(name: &str) -> anyhow::Result<()> {
    const NO_PARAMETERS: &CStr = c"";
    let module = File::open(format!("/lib/modules/{name}.ko"))?;
    match rustix::system::finit_module(&module, NO_PARAMETERS, 0) {
        // It is there already.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
