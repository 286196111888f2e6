//! Starts the app at login: a desktop entry in the user's `autostart` directory (freedesktop.org's specification).
//!
//! Invariant: only an entry that Kiln wrote is changed or removed.

use std::io;
use std::path::{Path, PathBuf};

const OURS: &str = "X-Kiln-Autostart=true";

/// Where the entry is, below the directory of the user's settings.
pub fn entry(config: &Path) -> PathBuf {
    config.join("autostart/dev.kiln.desktop.desktop")
}

/// Makes the entry be there, or not be there.
pub fn apply(config: &Path, program: &Path, wanted: bool) -> io::Result<()> {
    let file = entry(config);
    let there = match std::fs::read_to_string(&file) {
        Ok(text) if text.lines().any(|line| line == OURS) => Some(text),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let text = text(program);
    match (there, wanted) {
        (Some(_), false) => std::fs::remove_file(file),
        (Some(old), true) if old == text => Ok(()),
        (_, true) => {
            if let Some(directory) = file.parent() {
                std::fs::create_dir_all(directory)?;
            }
            std::fs::write(file, text)
        }
        (None, false) => Ok(()),
    }
}

fn text(program: &Path) -> String {
    // Inside of quotes these four are escaped; the file's own escape doubles the backslash.
    let mut quoted = String::new();
    for c in program.to_string_lossy().chars() {
        if matches!(c, '"' | '`' | '$' | '\\') {
            quoted.push_str("\\\\");
        }
        if c == '%' {
            quoted.push('%');
        }
        quoted.push(c);
    }
    format!(
        "[Desktop Entry]\nType=Application\nName=Kiln\nComment=Builds container images\nExec=\"{quoted}\" --tray\nTerminal=false\n{OURS}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_follows_the_setting() {
        let config = tempfile::tempdir().unwrap();
        let file = entry(config.path());
        let program = Path::new("/opt/a b/100%/kiln-desktop");
        apply(config.path(), program, false).unwrap();
        assert!(!file.exists());
        apply(config.path(), program, true).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("Exec=\"/opt/a b/100%%/kiln-desktop\" --tray\n"));
        apply(config.path(), program, false).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn an_entry_of_the_user_stays() {
        let config = tempfile::tempdir().unwrap();
        let file = entry(config.path());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "[Desktop Entry]\nHidden=true\n").unwrap();
        for wanted in [true, false] {
            apply(config.path(), Path::new("/x"), wanted).unwrap();
            assert!(std::fs::read_to_string(&file).unwrap().contains("Hidden"));
        }
    }
}
