//! Files of this computer that the engine's configuration names: the guest gets their texts, and a configuration that
//! names the places where it has them.
//!
//! Invariant: only what `[registry]` names as `ca`, `keypair` and `tlsconfigdir` is read, and a file that can't be is told before a
//! machine is started.

use std::path::{Path, PathBuf};

use kiln_config::{ConfigText, TlsDirectory};
use kiln_link::machine::registry_file;

use crate::driver::StartError;

/// No sensible bundle is larger.
const LARGEST: u64 = 4 << 20;

/// The configuration for the guest, and the texts by number.
pub(super) fn gather(toml: &str) -> Result<(String, Vec<String>), StartError> {
    let refused = |problem: String| StartError::Setting {
        setting: "buildkitd-toml",
        problem,
    };
    let mut text = ConfigText::parse(toml).map_err(|error| refused(error.to_string()))?;
    let listed = text.list_tls_directories(|directory| {
        TlsDirectory::list(directory)
            .map_err(|why| refused(format!("{}: {why}", directory.display())))
    });
    listed?;
    let mut paths: Vec<PathBuf> = Vec::new();
    text.rename_registry_files(|path| {
        let known = paths.iter().position(|other| other == path);
        registry_file(known.unwrap_or_else(|| {
            paths.push(path.to_owned());
            paths.len() - 1
        }))
    });
    if paths.is_empty() {
        return Ok((toml.to_owned(), Vec::new()));
    }
    let texts = paths
        .iter()
        .map(|path| read(path).map_err(|why| refused(format!("{}: {why}", path.display()))))
        .collect::<Result<_, _>>()?;
    let edited = text.finish().map_err(|error| refused(error.to_string()))?;
    Ok((edited, texts))
}

fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if length > LARGEST {
        return Err("it is too large for certificates".to_owned());
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_each_file_once_and_a_configuration_that_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, name).unwrap();
            path.display().to_string()
        };
        let (ca, key) = (file("ca.pem"), file("key.pem"));
        file("listed.crt");
        let toml = format!(
            "debug = true # mine\n[registry.\"a\"]\nca = [{ca:?}]\n[registry.\"b\"]\nca = [{ca:?}]\nkeypair = [{{ key = {key:?}, cert = {ca:?} }}]\n\
             [registry.\"c\"]\ntlsconfigdir = [{:?}]\n",
            directory.path()
        );
        let (edited, texts) = gather(&toml).unwrap();
        assert_eq!(texts, ["ca.pem", "key.pem", "listed.crt"]);
        let config = kiln_config::parse(&edited, Path::new("x")).unwrap();
        assert_eq!(config.registries["a"].ca, [registry_file(0)]);
        assert_eq!(config.registries["b"].keypair[0].key, registry_file(1));
        assert_eq!(config.registries["c"].ca, [registry_file(2)]);
        assert!(edited.starts_with("debug = true # mine"), "{edited}");

        for plain in ["", "debug = true"] {
            assert_eq!(gather(plain).unwrap(), (plain.to_owned(), Vec::new()));
        }
        std::fs::remove_file(&ca).unwrap();
        let error = gather(&toml).unwrap_err().to_string();
        assert!(error.contains("ca.pem"), "{error}");
    }
}
