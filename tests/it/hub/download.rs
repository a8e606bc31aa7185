//! Which files are downloaded, and when none are.

use std::{fs, path::Path};

use siglip_server::hub::{RepoId, Unreachable};

use super::{
    Quiet, Setup, get, names,
    stand_in::{COMMITS, File, ID, WEIGHT_BYTES},
};

#[tokio::test]
async fn what_is_read_is_downloaded_into_the_layout_of_python() {
    let setup = Setup::new().await;
    let snapshot = setup.get().await.expect("downloads");
    assert_eq!(snapshot.commit, COMMITS[0]);
    assert_eq!(snapshot.folder, setup.path("snapshots").join(COMMITS[0]));
    let files = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"];
    assert_eq!(names(&snapshot.folder), files);
    assert_eq!(fs::read_to_string(setup.path("refs/main")).expect("a ref"), COMMITS[0]);
    for name in files {
        let file = setup.hub.file(name);
        assert_eq!(fs::read(snapshot.folder.join(name)).expect(name), file.bytes);
        let link = fs::read_link(snapshot.folder.join(name)).expect("a link");
        assert_eq!(link, Path::new("../../blobs").join(file.hash()));
    }
    let absent = names(&setup.path(".no_exist").join(COMMITS[0]));
    assert!(absent.contains(&"spiece.model".to_owned()), "{absent:?}");
    assert_eq!(setup.unfinished(), 0);
    for seen in setup.hub.take_seen() {
        assert!(!seen.path.contains("README") && !seen.path.contains(".bin"), "{seen:?}");
    }
}

#[tokio::test]
async fn what_is_cached_is_not_downloaded_again() {
    let setup = Setup::new().await;
    let first = setup.get().await.expect("downloads");
    setup.hub.take_seen();

    // A branch may have moved: one request, and no file.
    assert_eq!(setup.get().await.expect("cached"), first);
    let seen = setup.hub.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");

    // A commit cannot change: no request at all.
    let pinned = get(&setup.with(|_| {}), Some(COMMITS[0])).await.expect("cached");
    assert_eq!(pinned, first);
    let offline = setup.with(|settings| settings.offline = true);
    assert_eq!(get(&offline, None).await.expect("cached"), first);
    assert_eq!(setup.hub.take_seen().len(), 0);

    setup.hub.stop();
    let id = RepoId::parse(ID).expect("an id");
    let cached = setup.with(|_| {}).snapshot(&id, None, Unreachable::UseCache, &Quiet).await;
    assert_eq!(cached.expect("cached"), first);
    assert!(setup.get().await.is_err());
}

#[tokio::test]
async fn a_branch_that_moved_is_followed_and_shares_what_did_not_change() {
    let setup = Setup::new().await;
    let first = setup.get().await.expect("downloads");
    setup.hub.files(|files| files.retain(|file| file.name != "config.json"));
    setup.hub.files(|files| files.push(File::small("config.json", r#"{"new": 1}"#)));
    setup.hub.push();
    setup.hub.take_seen();
    let second = setup.get().await.expect("downloads");
    assert_eq!(second.commit, COMMITS[1]);
    let seen: Vec<_> = setup.hub.take_seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(seen, ["listing main", "config.json"]);
    assert_eq!(fs::read_to_string(first.folder.join("config.json")).expect("kept"), "{}");
    assert!(second.folder.join("model.safetensors").is_file());

    // A branch with a slash in its name.
    let third = get(&setup.with(|_| {}), Some("a/b")).await.expect("cached");
    assert_eq!(third, second);
    assert_eq!(fs::read_to_string(setup.path("refs/a/b")).expect("a ref"), COMMITS[1]);
}

#[tokio::test]
async fn shards_come_by_their_index() {
    let setup = Setup::new().await;
    let index = r#"{"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}"#;
    setup.hub.files(|files| {
        files.retain(|file| file.name != "model.safetensors");
        files.push(File::small("model.safetensors.index.json", index));
        files.extend(["w-1", "w-2", "w-3"].map(|n| File::large(&format!("{n}.safetensors"), n)));
    });
    let snapshot = setup.get().await.expect("downloads");
    let weights: Vec<_> =
        names(&snapshot.folder).into_iter().filter(|name| name.contains("safetensors")).collect();
    assert_eq!(weights, ["model.safetensors.index.json", "w-1.safetensors", "w-2.safetensors"]);
    setup.hub.take_seen();
    get(&setup.with(|_| {}), Some(COMMITS[0])).await.expect("cached whole");
    assert!(setup.hub.take_seen().is_empty());
}

#[tokio::test]
async fn a_mirror_that_lists_no_hashes_is_asked_for_them() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| rules.bare_listing = true);
    let snapshot = setup.get().await.expect("downloads");
    let weights = fs::metadata(snapshot.folder.join("model.safetensors")).expect("weights");
    assert_eq!(weights.len(), WEIGHT_BYTES as u64);
    let heads = setup.hub.take_seen().into_iter().filter(|seen| seen.method == "HEAD");
    assert_eq!(heads.filter(|seen| seen.path == "model.safetensors").count(), 1);
}

#[tokio::test]
async fn small_files_may_lie_elsewhere_on_the_hub() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| (rules.relocates, rules.token) = (true, Some("hf_right")));
    get(&setup.with_token("hf_right"), None).await.expect("downloads");
    let seen = setup.hub.take_seen();
    let relocated = seen.iter().find(|seen| seen.path == "relocated config.json");
    // Still the hub, so the token is sent.
    assert!(relocated.expect("was followed").token.is_some());
}

#[tokio::test]
async fn a_cache_that_another_program_filled_is_used_and_completed() {
    let setup = Setup::new().await;
    let folder = setup.path("snapshots").join(COMMITS[0]);
    let blobs = setup.path("blobs");
    for path in [&folder, &blobs, &setup.path("refs")] {
        fs::create_dir_all(path).expect("makes a folder");
    }
    fs::write(setup.path("refs/main"), COMMITS[0]).expect("writes");
    for name in ["config.json", "model.safetensors"] {
        let file = setup.hub.file(name);
        fs::write(blobs.join(file.hash()), &file.bytes).expect("writes");
        fs::hard_link(blobs.join(file.hash()), folder.join(name)).expect("links");
    }
    // The cache has all needed files, as far as is known without a request.
    let offline = setup.with(|settings| settings.offline = true);
    assert_eq!(get(&offline, None).await.expect("cached").folder, folder);
    // With network access, only the missing files are downloaded.
    get(&setup.with(|_| {}), Some(COMMITS[0])).await.expect("downloads the rest");
    assert!(folder.join("tokenizer.json").is_file());
    let at_storage = setup.hub.take_seen().into_iter().filter(|seen| seen.at_storage);
    assert_eq!(at_storage.map(|seen| seen.path).collect::<Vec<_>>(), ["tokenizer.json"]);
}

#[tokio::test]
async fn two_at_once_download_once() {
    let setup = Setup::new().await;
    let (one, two) = (setup.with(|_| {}), setup.with(|_| {}));
    let (one, two) = tokio::join!(get(&one, None), get(&two, None));
    assert_eq!(one.expect("downloads"), two.expect("waits"));
    let seen = setup.hub.take_seen();
    let weights = seen.iter().filter(|seen| seen.at_storage && seen.path == "model.safetensors");
    assert_eq!(weights.count(), 1, "{seen:?}");
}
