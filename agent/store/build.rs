//! Lists `src/migrations/NNNN_name.sql`, so that a crate adds its tables by adding a file.

use std::fmt::Write as _;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let folder = Path::new(&manifest).join("src/migrations");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = std::fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "sql"))
        .collect();
    files.sort();
    let mut list = String::from("&[\n");
    for path in &files {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let (number, name) = stem.split_once('_').unwrap_or((&stem, ""));
        let number: u32 = number
            .parse()
            .map_err(|_| std::io::Error::other(format!("{stem}: want NNNN_name.sql")))?;
        let _ = writeln!(
            list,
            "Migration {{ number: {number}, name: {name:?}, sql: include_str!({:?}) }},",
            path.display()
        );
    }
    list.push(']');
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    std::fs::write(Path::new(&out).join("migrations.rs"), list)
}
