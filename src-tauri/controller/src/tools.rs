//! The tools that people have already: whether `docker buildx` knows Kiln as a builder.
//!
//! Invariant: which builder the tools take is never changed unless that is asked for.

use kiln_client::Address;
use kiln_client::buildx::Buildx;

use crate::view::ToolState;
use crate::{Controller, Failure};

fn buildx() -> Result<Buildx, Failure> {
    Buildx::of_user()
        .ok_or_else(|| Failure::user("There is no home directory.", "Set HOME or BUILDX_CONFIG."))
}

impl Controller {
    /// What buildx knows.
    pub fn tools(&self) -> Result<ToolState, Failure> {
        Ok(self.state_of(&buildx()?))
    }

    /// Adds the builder `kiln` to buildx, as the current one if that is wanted.
    pub fn install_tools(&self, make_current: bool) -> Result<ToolState, Failure> {
        let buildx = buildx()?;
        self.install_into(&buildx, make_current)?;
        Ok(self.state_of(&buildx))
    }

    /// Removes it.
    pub fn remove_tools(&self) -> Result<ToolState, Failure> {
        let buildx = buildx()?;
        buildx.uninstall()?;
        Ok(self.state_of(&buildx))
    }

    fn install_into(&self, buildx: &Buildx, make_current: bool) -> Result<(), Failure> {
        buildx.install(&self.tools_address())?;
        if make_current {
            buildx.make_current()?;
        }
        Ok(())
    }

    /// The socket that keeps the machine awake while a tool is connected.
    fn tools_address(&self) -> Address {
        Address::Unix(self.paths().buildkit_socket())
    }

    fn state_of(&self, buildx: &Buildx) -> ToolState {
        let address = self.tools_address().to_string();
        let known = buildx.endpoint();
        ToolState {
            installed: known.is_some(),
            elsewhere: known.is_some_and(|known| known != address),
            current: buildx.is_current(),
            address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildx_gets_the_socket_of_the_tools() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let controller = Controller::new(kiln_config::HostPaths {
            runtime: at("r"),
            state: at("s"),
            config: at("c"),
        });
        let buildx = Buildx::at(at("buildx"));
        assert!(!controller.state_of(&buildx).installed);
        buildx
            .install(&"unix:///another.sock".parse().unwrap())
            .unwrap();
        assert!(controller.state_of(&buildx).elsewhere);
        controller.install_into(&buildx, false).unwrap();
        let state = controller.state_of(&buildx);
        assert!(state.installed && !state.elsewhere && !state.current);
        assert_eq!(buildx.endpoint(), Some(state.address));
        controller.install_into(&buildx, true).unwrap();
        assert!(controller.state_of(&buildx).current);
    }
}
