//! Rules of the source tree that the compiler does not check: layers, file lengths, module names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Maximum length of a file in lines, without its tests.
const MAX_LINES: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A source file without its tests.
struct Source {
    /// Relative to `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> String {
        let first = self.path.iter().next().and_then(|part| part.to_str()).expect("utf-8");
        first.trim_end_matches(".rs").to_owned()
    }

    fn is_tests(&self) -> bool {
        self.path.iter().any(|part| part == "tests.rs" || part == "tests")
    }
}

fn sources() -> Vec<Source> {
    sources_of("src")
}

/// The files below a folder of the repository, without tests.
fn sources_of(folder: &str) -> Vec<Source> {
    let src = root().join(folder);
    let mut folders = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("utf-8");
                // Unit tests are at the end of their file.
                let begin = ["\n#[cfg(test)]\nmod ", "\n#[cfg(all(test, "];
                let end = begin.iter().filter_map(|begin| text.find(begin)).min();
                let text = text[..end.unwrap_or(text.len())].to_owned();
                let path = path.strip_prefix(&src).expect("below src").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.retain(|source| !source.is_tests());
    assert!(found.len() > 10, "the sources are found");
    found
}

/// The table in `src/lib.rs`: module -> layer.
fn layers() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs is there");
    let mut layers = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = row.split('|').map(str::trim);
        let Some(Ok(layer)) = cells.next().map(str::parse) else { continue };
        for module in cells.next().unwrap_or_default().split(',') {
            let name = module.trim().trim_matches(['[', ']', '`']).to_owned();
            layers.insert(name, layer);
        }
    }
    layers
}

/// The top-level modules that a text names after `crate::`, without comments.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

fn head(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first names of `{a::{b, c}, d}`, without nested names.
fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(String::new()),
            _ if depth == 0 => heads.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    heads.iter().filter_map(|item| head(item.trim())).collect()
}

#[test]
fn imports_are_read() {
    let text = "use crate::{a::{b, c}, d, e::f as g};\nlet x = crate::h::i(); // crate::j\n";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["a", "d", "e", "h"]);
}

#[test]
fn every_module_has_a_layer() {
    let layers = layers();
    let unknown: BTreeSet<_> = sources()
        .iter()
        .map(Source::module)
        .filter(|module| module != "lib" && !layers.contains_key(module))
        .collect();
    assert!(unknown.is_empty(), "not in the table of src/lib.rs: {unknown:?}");
}

/// A path in the configuration or a checkpoint may be a pipe, which blocks, or an endless device.
#[test]
fn named_files_are_read_by_the_module_for_it_alone() {
    let mut wrong = Vec::new();
    for source in sources() {
        let reads = ["fs::read(", "fs::read_to_string(", "File::open("];
        let own = [
            "small_file.rs",
            // The kernel's own files.
            "decoder/worker.rs",
            "model/cores.rs",
            // Files that a user names on the command line, up to a limit: a pipe is allowed there.
            "cli/offline/rows.rs",
        ];
        if !own.iter().any(|path| source.path == Path::new(path))
            && reads.iter().any(|read| source.text.contains(read))
        {
            wrong.push(source.path);
        }
    }
    assert!(wrong.is_empty(), "use `small_file` in {wrong:?}");
}

#[test]
fn a_module_imports_only_from_below_or_beside() {
    let layers = layers();
    let mut wrong = Vec::new();
    let mut edges = BTreeSet::new();
    for source in sources() {
        let module = source.module();
        for import in imports(&source.text) {
            let (Some(own), Some(other)) = (layers.get(&module), layers.get(&import)) else {
                continue;
            };
            let surfaces = ["rest", "grpc"];
            let crosses = module != import
                && surfaces.contains(&module.as_str())
                && surfaces.contains(&import.as_str());
            if other > own || crosses {
                wrong.push(format!("src/{} imports {import}", source.path.display()));
            }
            if module != import {
                edges.insert((module.clone(), import));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Modules of the same layer may use each other, but not in a cycle.
    let rings: Vec<_> =
        edges.iter().filter(|(a, b)| a < b && edges.contains(&(b.clone(), a.clone()))).collect();
    assert!(rings.is_empty(), "modules that import each other: {rings:?}");
}

/// The kernels read and write slices. They are below every layer and do not know tensors, options and models.
#[test]
fn the_kernels_depend_on_little() {
    let manifest =
        fs::read_to_string(root().join("crates/kernels/Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let dependencies = manifest["dependencies"].as_table().expect("a table");
    let names: Vec<_> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(names, ["half", "rayon", "thiserror"]);
    for source in sources_of("crates/kernels/src") {
        let text = source.text.to_lowercase();
        for family in ["siglip", "clip", "blip"] {
            let named = text.replace("siglip-server", "").contains(family);
            assert!(!named, "{} names {family}", source.path.display());
        }
    }
}

/// A family of models is named only in its own folder and in the one list of families, so that a new family is
/// an addition.
#[test]
fn families_are_named_in_one_place() {
    let families = ["siglip", "clip", "blip", "blip2", "llava"];
    let mut wrong = Vec::new();
    for source in sources() {
        let path = source.path.to_string_lossy().into_owned();
        let at_home = |family: &str| {
            path == "model/family.rs"
                || path.starts_with(&format!("model/{family}"))
                || (family == "clip" && path.starts_with("model/open_clip"))
                || (family == "clip" && path.starts_with("tokenize"))
        };
        let code: String = source
            .text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        for family in families {
            let used = code.match_indices(&format!("{family}::")).any(|(at, _)| {
                !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            });
            if used && !at_home(family) {
                wrong.push(format!("{path} names {family}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = ["src", "crates/kernels/src"]
        .into_iter()
        .flat_map(sources_of)
        .filter(|source| source.text.lines().count() > MAX_LINES)
        .map(|source| format!("{}: {}", source.path.display(), source.text.lines().count()))
        .collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {}", long.join(", "));
}

#[test]
fn no_module_is_named_like_a_dependency() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let dependencies: BTreeSet<_> = ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table())
        .flat_map(|table| table.keys().map(|name| name.replace('-', "_")))
        .collect();
    let taken: Vec<_> = sources()
        .iter()
        .filter(|source| {
            let module = Path::new(&source.path).file_stem().and_then(|stem| stem.to_str());
            module.is_some_and(|module| dependencies.contains(module))
        })
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(taken.is_empty(), "{taken:?}");
}
