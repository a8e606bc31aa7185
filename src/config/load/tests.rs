use std::io::Write as _;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn flags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("writes");
    file
}

fn option(path: &str) -> &'static Spec {
    OPTIONS.iter().find(|option| option.path() == path).expect(path)
}

fn problems(sources: &Sources) -> Vec<String> {
    let problems = Effective::load(sources).expect_err("there is something wrong");
    problems.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn nothing_set_is_all_defaults() {
    let effective = Effective::load(&Sources::default()).expect("defaults are sound");
    assert_eq!(effective.config, Config::default());
    assert!(OPTIONS.iter().all(|option| effective.origin(option) == Origin::Default));
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let file = file("[limits]\nmax_items = 10\nmax_labels = 20\nmax_text_bytes = \"1KiB\"\n");
    let name = file.path().display().to_string();
    let effective = Effective::load(&Sources {
        file: Some(file.path().to_owned()),
        env: env(&[("SIGLIP_LIMITS_MAX_ITEMS", "11"), ("SIGLIP_LIMITS_MAX_LABELS", "21")]),
        flags: flags(&[("limits-max-items", "12")]),
    })
    .expect("loads");
    let limits = &effective.config.limits;
    assert_eq!((limits.max_items, limits.max_labels, limits.max_text_bytes), (12, 21, 1024));
    let origin = |path| effective.origin(option(path)).to_string();
    assert_eq!(origin("limits.max_items"), "flag --limits-max-items");
    assert_eq!(origin("limits.max_labels"), "variable SIGLIP_LIMITS_MAX_LABELS");
    assert_eq!(origin("limits.max_text_bytes"), format!("{name}:4"));
    assert_eq!(origin("limits.max_body_bytes"), "default");
}

#[test]
fn the_variable_names_the_file_unless_a_flag_does() {
    let (one, two) = (file("[model]\nname = \"one\"\n"), file("[model]\nname = \"two\"\n"));
    let variable = vec![("SIGLIP_CONFIG".into(), one.path().into())];
    let by_variable = Sources { env: variable.clone(), ..Sources::default() };
    let loaded = Effective::load(&by_variable).expect("loads");
    assert_eq!(loaded.config.model.name.as_deref(), Some("one"));
    let by_flag = Sources { env: variable, file: Some(two.path().into()), ..Sources::default() };
    let loaded = Effective::load(&by_flag).expect("loads");
    assert_eq!(loaded.config.model.name.as_deref(), Some("two"));
}

#[test]
fn every_problem_is_named_with_its_origin() {
    let file = file("[limits]\nmax_items = -1\n[listen]\nhtpp = \"x\"\n");
    let name = file.path().display().to_string();
    let found = problems(&Sources {
        file: Some(file.path().to_owned()),
        env: env(&[("SIGLIP_LISTN", "x"), ("SIGLIP_DTYPE", "f64")]),
        flags: flags(&[("listen", "8080")]),
    });
    assert_eq!(
        found,
        [
            "variable SIGLIP_LISTN: there is no such option; did you mean `SIGLIP_LISTEN`?"
                .to_owned(),
            format!("{name}:4: [listen] htpp: there is no such option; did you mean `http`?"),
            format!("{name}:2: [limits] max_items: `-1` is not a whole number"),
            "variable SIGLIP_DTYPE: `f64` is not an element type: f32, f16, bf16 or int8"
                .to_owned(),
            "flag --listen: `8080` is not an address with a port, such as 127.0.0.1:8080 or \
             [::]:8080"
                .to_owned(),
        ]
    );
}

#[test]
fn a_missing_file_is_named() {
    let found = problems(&Sources { file: Some("/nowhere/s.toml".into()), ..Sources::default() });
    assert!(found[0].starts_with("/nowhere/s.toml: the config file cannot be read"), "{found:?}");
}

#[test]
fn contradictions_name_both_sides() {
    let found = problems(&Sources {
        flags: flags(&[("limits-max-items", "9000"), ("batch-max-queue-rows", "10000")]),
        ..Sources::default()
    });
    assert_eq!(
        found,
        ["limits.max_items (9000, flag --limits-max-items): must not be more than \
          limits.max_items_in_flight (8192, default): no request of that size could ever be admitted"]
    );
}

#[test]
fn what_is_not_ours_in_the_environment_is_left_alone() {
    let effective = Effective::load(&Sources {
        env: env(&[
            ("SIGLIP_MODEL_NAME", ""),
            // `cargo run` sets these.
            ("SIGLIP_BUILD_COMMIT", "abc"),
            ("SIGLIP_BUILD_TARGET", "x86_64-unknown-linux-gnu"),
            ("SIGLIP_SERVICE_HOST", "10.0.0.1"),
            ("SIGLIP_SERVER_SERVICE_PORT_HTTP", "8080"),
            ("SIGLIP_PORT", "tcp://10.0.0.1:8080"),
            ("SIGLIP_SERVER_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ]),
        ..Sources::default()
    });
    assert_eq!(effective.expect("loads").config, Config::default());
}
