//! Makes what Tauri embeds: the configuration, the permissions and the built UI.

fn main() {
    tauri_build::build();
}
