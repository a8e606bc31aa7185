//! Failed downloads, and the files that they leave.

use std::{fs, time::Duration};

use siglip_server::hub::{HubError, RepoId, Unreachable};

use super::{
    Quiet, Setup, get,
    stand_in::{COMMITS, ID, WEIGHT_BYTES},
};

#[tokio::test]
async fn a_download_that_breaks_off_continues_where_it_stopped() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| (rules.cut_at, rules.cuts) = (Some(100_000), 1));
    setup.get().await.expect("the second connection brings the rest");
    let ranges: Vec<_> = setup
        .hub
        .take_seen()
        .into_iter()
        .filter(|seen| seen.at_storage && seen.path == "model.safetensors")
        .map(|seen| seen.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}

#[tokio::test]
async fn a_later_run_continues_what_an_earlier_one_left() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| (rules.cut_at, rules.cuts) = (Some(100_000), usize::MAX));
    let error = setup.get().await.expect_err("no connection gets further");
    let expected = WEIGHT_BYTES as u64;
    assert!(
        matches!(&error, HubError::Truncated { got: 100_000, expected: size, .. } if *size == expected),
        "{error:?}"
    );
    assert_eq!(setup.unfinished(), 1);
    assert!(!setup.path("refs/main").exists(), "nothing points at what is not whole");

    setup.hub.rules(|rules| rules.cuts = 0);
    setup.hub.take_seen();
    setup.get().await.expect("the rest comes");
    let seen = setup.hub.take_seen();
    let ranges: Vec<_> = seen.iter().filter_map(|seen| seen.range.as_deref()).collect();
    // The range is requested from the hub, which redirects to its storage.
    assert_eq!(ranges, ["bytes=100000-"; 2]);
    assert_eq!(setup.unfinished(), 0);
}

#[tokio::test]
async fn a_storage_without_ranges_begins_anew() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| {
        (rules.cut_at, rules.cuts, rules.ignores_ranges) = (Some(100_000), 1, true);
    });
    setup.get().await.expect("downloads");
}

#[tokio::test]
async fn what_an_earlier_run_left_damaged_is_thrown_away() {
    let setup = Setup::new().await;
    let hash = setup.hub.file("model.safetensors").hash();
    fs::create_dir_all(setup.path("blobs")).expect("makes a folder");
    for length in [1000, WEIGHT_BYTES, WEIGHT_BYTES + 1] {
        let partial = setup.path("blobs").join(format!("{hash}.incomplete"));
        fs::write(&partial, vec![1; length]).expect("writes");
        let snapshot = setup.get().await.expect("downloads anew");
        fs::remove_dir_all(&snapshot.folder).expect("removes");
        fs::remove_file(setup.path("blobs").join(&hash)).expect("removes");
    }
}

#[tokio::test]
async fn damaged_bytes_never_get_their_name() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| rules.damages = true);
    let error = setup.get().await.expect_err("the hash is wrong");
    assert!(matches!(error, HubError::WrongHash { .. }), "{error:?}");
    let hash = setup.hub.file("model.safetensors").hash();
    assert!(!setup.path("blobs").join(hash).exists());
    assert_eq!(setup.unfinished(), 0);
}

#[tokio::test]
async fn a_file_that_changes_under_way_is_refused() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| rules.other_commit = Some(COMMITS[1]));
    let error = setup.get().await.expect_err("another commit");
    assert!(matches!(error, HubError::Changed { what: "the commit", .. }), "{error:?}");
    setup.hub.rules(|rules| (rules.other_commit, rules.other_hash) = (None, true));
    let error = setup.get().await.expect_err("another hash");
    assert!(matches!(error, HubError::Changed { what: "the hash", .. }), "{error:?}");
}

#[tokio::test]
async fn the_token_opens_gated_models_and_stays_with_the_hub() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| rules.token = Some("hf_right"));
    let error = setup.get().await.expect_err("no token");
    assert!(matches!(error, HubError::Gated { token: false, .. }), "{error:?}");
    assert!(error.to_string().contains("set a token of that account (HF_TOKEN)"), "{error}");
    let error = get(&setup.with_token("hf_wrong"), None).await.expect_err("another's token");
    assert!(matches!(error, HubError::Refused { token: true, .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hf_wrong"));

    setup.hub.take_seen();
    get(&setup.with_token("hf_right"), None).await.expect("opens");
    let seen = setup.hub.take_seen();
    assert!(seen.iter().any(|seen| seen.at_storage));
    for seen in seen {
        assert_eq!(seen.token.is_some(), !seen.at_storage, "{seen:?}");
    }
}

#[tokio::test]
async fn what_the_hub_does_not_have_is_named() {
    let setup = Setup::new().await;
    let error = get(&setup.with(|_| {}), Some("v9")).await.expect_err("no such revision");
    assert_eq!(error.to_string(), "`org/name` has no revision `v9`");
    let error = get(&setup.with(|_| {}), Some("../x")).await.expect_err("no revision at all");
    assert!(matches!(error, HubError::Revision(_)), "{error:?}");
    let id = RepoId::parse("org/other").expect("an id");
    let other = setup.with(|_| {}).snapshot(&id, None, Unreachable::UseCache, &Quiet).await;
    let error = other.expect_err("no such model").to_string();
    assert!(error.contains("has no model `org/other`, or it is private"), "{error}");

    setup.hub.files(|files| files.retain(|file| file.name != "model.safetensors"));
    let error = setup.get().await.expect_err("only a pickle");
    assert!(matches!(&error, HubError::Pickle { file, .. } if file == "pytorch_model.bin"));
    assert!(error.to_string().contains("a pickle can run code"), "{error}");
}

#[tokio::test]
async fn a_hub_that_is_busy_or_silent_is_told_from_one_that_refuses() {
    let setup = Setup::new().await;
    let first = setup.get().await.expect("downloads");
    let id = RepoId::parse(ID).expect("an id");
    let impatient = || setup.with(|settings| settings.api_timeout = Duration::from_millis(100));
    let cached = async || impatient().snapshot(&id, None, Unreachable::UseCache, &Quiet).await;
    setup.hub.rules(|rules| rules.listing_status = Some(503));
    assert_eq!(cached().await.expect("the cache"), first);
    assert!(matches!(setup.get().await, Err(HubError::Status { .. })));
    setup.hub.rules(|rules| (rules.listing_status, rules.mute) = (None, true));
    assert_eq!(cached().await.expect("the cache"), first);
    assert!(matches!(get(&impatient(), None).await, Err(HubError::TimedOut { .. })));
    // A refusal must be reported, even if the files are in the cache.
    setup.hub.rules(|rules| (rules.listing_status, rules.mute) = (Some(403), false));
    assert!(matches!(cached().await, Err(HubError::Refused { .. })));
}

#[tokio::test]
async fn a_storage_that_falls_silent_is_left() {
    let setup = Setup::new().await;
    setup.hub.rules(|rules| {
        (rules.cut_at, rules.cuts, rules.silent) = (Some(100_000), 1, true);
    });
    let hub = setup.with(|settings| settings.idle_timeout = Duration::from_millis(100));
    get(&hub, None).await.expect("the second connection brings the rest");
}

#[tokio::test]
async fn what_is_not_cached_cannot_be_had_offline() {
    let setup = Setup::new().await;
    let offline = setup.with(|settings| settings.offline = true);
    let error = get(&offline, None).await.expect_err("nothing is cached").to_string();
    assert!(error.contains("`org/name` at `main` is not in the cache"), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    setup.hub.stop();
    let error = setup.get().await.expect_err("nobody is there");
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn redirects_lead_nowhere_else() {
    let setup = Setup::new().await;
    for target in ["file:///etc/passwd", "http://"] {
        setup.hub.rules(|rules| rules.redirects_to = Some(target));
        let error = setup.get().await.expect_err(target);
        assert!(matches!(error, HubError::Redirect { .. }), "{error:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_in_the_place_of_a_file_is_not_written_through() {
    let setup = Setup::new().await;
    let hash = setup.hub.file("model.safetensors").hash();
    fs::create_dir_all(setup.path("blobs")).expect("makes a folder");
    let victim = setup.path("victim");
    fs::write(&victim, "mine").expect("written");
    let partial = setup.path("blobs").join(format!("{hash}.incomplete"));
    std::os::unix::fs::symlink(&victim, &partial).expect("links");
    setup.get().await.expect("a file of its own");
    assert_eq!(fs::read_to_string(&victim).expect("there"), "mine");
}
