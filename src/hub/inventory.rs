//! The list of the models in the cache.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    Hub, RepoId,
    cache::{Repo, is_commit},
};

/// Maximum number of folders within each other below a model's folder.
const MAX_DEPTH: usize = 8;

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// The id on the hub.
    pub id: RepoId,
    /// Bytes of all files, each counted once, unfinished downloads included.
    pub bytes: u64,
    /// The commits of which something is there, by hash.
    pub commits: Vec<CachedCommit>,
}

/// A commit of which something is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedCommit {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// The branches and tags that stood for it last, by name.
    pub revisions: Vec<String>,
    /// The folder with its files.
    pub folder: PathBuf,
    /// Bytes of its files. Commits share files.
    pub bytes: u64,
    /// The reason why the files are not enough to load the model; none if they are.
    pub lacks: Option<String>,
}

impl Hub {
    /// The models in the cache, by id. Folders that are named otherwise are passed over; a cache that is not there is
    /// empty.
    #[must_use]
    pub fn inventory(&self) -> Vec<CachedModel> {
        models(&self.settings.cache)
    }

    /// The cache's folder.
    #[must_use]
    pub fn cache_folder(&self) -> &Path {
        &self.settings.cache
    }
}

fn models(cache: &Path) -> Vec<CachedModel> {
    let mut models: Vec<_> = names(cache)
        .into_iter()
        .filter_map(|name| RepoId::parse(&name.strip_prefix("models--")?.replacen("--", "/", 1)))
        .map(|id| model(cache, id))
        .collect();
    models.sort_by_key(|model| model.id.to_string());
    models
}

fn model(cache: &Path, id: RepoId) -> CachedModel {
    let repo = Repo::new(cache, &id);
    let mut revisions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for revision in revisions_of(&repo.refs()) {
        if let Some(commit) = repo.commit_of(&revision) {
            revisions.entry(commit).or_default().push(revision);
        }
    }
    let mut commits: Vec<_> = names(&repo.snapshots())
        .into_iter()
        .filter(|name| is_commit(name))
        .map(|commit| {
            let folder = repo.snapshot(&commit).folder;
            CachedCommit {
                bytes: bytes_below(&folder, MAX_DEPTH, &mut HashSet::new()),
                lacks: repo.check_usable(&commit).err(),
                revisions: revisions.remove(&commit).unwrap_or_default(),
                folder,
                commit,
            }
        })
        .collect();
    commits.sort_by(|a, b| a.commit.cmp(&b.commit));
    let bytes = bytes_below(repo.root(), MAX_DEPTH, &mut HashSet::new());
    CachedModel { id, bytes, commits }
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The branches and tags below `refs`: `main`, `refs/pr/1`.
fn revisions_of(refs: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = folders.pop() {
        for name in names(&refs.join(&prefix)) {
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            match refs.join(&path) {
                file if file.is_file() => found.push(path),
                folder if folder.is_dir() && depth < MAX_DEPTH => folders.push((path, depth + 1)),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Bytes of the files below a folder, each once however many links lead to it.
fn bytes_below(folder: &Path, depth: usize, seen: &mut HashSet<PathBuf>) -> u64 {
    let mut bytes = 0;
    for name in names(folder) {
        let path = folder.join(name);
        let is_link = path.symlink_metadata().is_ok_and(|it| it.is_symlink());
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() {
            // A link and its blob are one file.
            if fs::canonicalize(&path).is_ok_and(|path| seen.insert(path)) {
                bytes += metadata.len();
            }
        } else if metadata.is_dir() && !is_link && depth > 0 {
            bytes += bytes_below(&path, depth - 1, seen);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_of_a_cache_are_listed_with_their_commits() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path();
        let put = |path: &str, text: &str| {
            let path = cache.join(path);
            fs::create_dir_all(path.parent().expect("below the cache")).expect("made");
            fs::write(path, text).expect("written");
        };
        let (old, new) = ("a".repeat(40), "b".repeat(40));
        put("models--org--name/blobs/1", "{}");
        put("models--org--name/blobs/2.incomplete", "half");
        put("models--org--name/refs/main", &new);
        put("models--org--name/refs/refs/pr/1", &old);
        put(&format!("models--org--name/snapshots/{old}/README.md"), "words");
        fs::create_dir_all(cache.join(format!("models--org--name/snapshots/{new}"))).expect("made");
        #[cfg(unix)]
        std::os::unix::fs::symlink(
            "../../blobs/1",
            cache.join(format!("models--org--name/snapshots/{new}/config.json")),
        )
        .expect("linked");
        put("datasets--org--name/blobs/1", "other");
        put("models--lonely/x", "no owner");
        put("models--org--b/x", "");
        put("version.txt", "1");

        let models = models(cache);
        let ids: Vec<_> = models.iter().map(|model| model.id.to_string()).collect();
        assert_eq!(ids, ["org/b", "org/name"]);
        let model = &models[1];
        // Two blobs, two references, and a file in the older snapshot.
        assert_eq!(model.bytes, 2 + 4 + 40 + 40 + 5);
        let told: Vec<_> = model
            .commits
            .iter()
            .map(|it| (it.commit.as_str(), it.revisions.join(","), it.bytes))
            .collect();
        assert_eq!(told, [(&*old, "refs/pr/1".to_owned(), 5), (&*new, "main".to_owned(), 2)]);
        let lacks = model.commits[1].lacks.as_deref().expect("no weights");
        assert!(lacks.contains("none of the files of weights"), "{lacks}");
        assert_eq!(super::models(&cache.join("none")), []);
    }
}
