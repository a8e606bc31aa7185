//! Rules for the documents and for the whole repository that no other test checks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder with these endings, without build outputs and installed packages (`bench/work` has both).
fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("utf-8").to_owned();
        if path.is_dir() {
            if !name.starts_with('.')
                && !["target", "node_modules", "__pycache__", "work"].contains(&&*name)
            {
                files(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    files(&root(), &[".md"], &mut pages);
    assert!(pages.len() > 20, "the pages are found");
    pages
}

/// The anchor of a heading, as on GitHub.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of a page. A repeated heading gets a number.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let base = anchor(heading.trim());
        let times = seen.entry(base.clone()).or_default();
        anchors.push(if *times == 0 { base } else { format!("{base}-{times}") });
        *times += 1;
    }
    // Explicit anchors.
    anchors.extend(
        text.split("id=\"").skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())),
    );
    anchors
}

/// The targets of the links in a page, without code.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut links = Vec::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence {
            continue;
        }
        for rest in line.split("](").skip(1) {
            links.extend(rest.split([')', ' ']).next().map(str::to_owned));
        }
    }
    links
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("utf-8");
        for link in links(&text) {
            let elsewhere = link.contains("://") || link.starts_with("mailto:");
            if elsewhere || link.is_empty() || link.starts_with('/') {
                continue;
            }
            let (path, part) = link.split_once('#').unwrap_or((&link, ""));
            let target =
                if path.is_empty() { page.clone() } else { page.with_file_name("").join(path) };
            let is_page = target.extension().is_some_and(|it| it == "md");
            let missing = !target.exists();
            let lost = !missing && is_page && !part.is_empty() && {
                let text = fs::read_to_string(&target).expect("utf-8");
                !anchors(&text).iter().any(|anchor| anchor == part)
            };
            if missing || lost {
                dead.push(format!(
                    "{}: {link}",
                    page.strip_prefix(root()).expect("below").display()
                ));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn decisions_have_numbers_of_their_own_and_stand_in_the_index() {
    let folder = root().join("docs/adr");
    let index = fs::read_to_string(folder.join("README.md")).expect("an index");
    let mut numbers = BTreeMap::new();
    for entry in fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|it| it.to_str()).expect("utf-8").to_owned();
        if name == "README.md" {
            continue;
        }
        let number: u32 = name.split('-').next().and_then(|it| it.parse().ok()).expect("a number");
        let text = fs::read_to_string(&path).expect("utf-8");
        assert!(
            text.starts_with(&format!("# {number}. ")),
            "{name}: its heading has another number"
        );
        let title = text.lines().next().and_then(|line| line.split_once(". ")).expect("a title").1;
        assert!(index.contains(&format!("{number}. [{title}]({name})")), "the index lacks {name}");
        if let Some(other) = numbers.insert(number, name.clone()) {
            panic!("{other} and {name} have one number");
        }
    }
    assert!(numbers.len() > 5);
}

#[test]
fn no_file_holds_the_path_of_its_checkout() {
    let mut found = Vec::new();
    let endings = [
        ".md", ".rs", ".py", ".toml", ".yaml", ".yml", ".mjs", ".ts", ".js", ".json", ".proto",
        ".sh",
    ];
    files(&root(), &endings, &mut found);
    let here = root();
    // The name of a checkout right below the root is too short to search for.
    if here.components().count() < 3 {
        return;
    }
    let here = here.to_str().expect("utf-8");
    let names_it = |path: &&PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(here));
    let wrong: Vec<_> = found.iter().filter(names_it).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Words that the text does not use any more. `CONTRIBUTING.md` has a table with the words to use instead.
const RETIRED: [&str; 8] = [
    "anew",
    "from nothing",
    "in the light of",
    "one behind the other",
    "picture",
    "pictures",
    "whither",
    "whoever",
];

/// Whether a line has a word or phrase, outside of code in backticks.
fn says(line: &str, phrase: &str) -> bool {
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ").to_lowercase();
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "_/".contains(c));
    prose.match_indices(phrase).any(|(at, found)| {
        let after = prose[at + found.len()..].chars().next();
        !is_part(prose[..at].chars().next_back()) && !is_part(after)
    })
}

#[test]
fn retired_words_stay_away() {
    let mut wrong = Vec::new();
    let mut check = |path: &Path, is_prose: fn(&str) -> bool| {
        let text = fs::read_to_string(path).expect("utf-8");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_prose(line)) {
            for word in RETIRED.iter().filter(|word| says(line, word)) {
                let name = path.strip_prefix(root()).expect("below").display();
                wrong.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    };
    let mut found = Vec::new();
    for folder in ["src", "crates/kernels/src", "proto", "tests/it"] {
        files(&root().join(folder), &[".rs", ".proto"], &mut found);
    }
    for path in found {
        check(&path, |line| line.trim_start().starts_with("//"));
    }
    let mut found = vec![root().join("README.md"), root().join("SECURITY.md")];
    files(&root().join("docs"), &[".md"], &mut found);
    for path in found {
        check(&path, |_| true);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Tests that sleep, and why they may. All others wait for a notification, or with [`crate::waiting::until`].
const SLEEPERS: [&str; 3] = [
    // It looks at conditions that no notification reports.
    "waiting.rs",
    // Its clients send a byte now and then.
    "wire/slow.rs",
    // Its forward passes take a known time, from which the server estimates when to retry.
    "rest/overload.rs",
];

#[test]
fn tests_do_not_sleep() {
    let folder = root().join("tests/it");
    let mut sources = Vec::new();
    files(&folder, &[".rs"], &mut sources);
    let call = concat!("time::", "sleep(");
    let sleeps = |path: &&PathBuf| fs::read_to_string(path).expect("a source file").contains(call);
    let found = sources.iter().filter(sleeps);
    let found = found.map(|path| path.strip_prefix(&folder).expect("below it").to_string_lossy());
    let mut found: Vec<_> = found.collect();
    found.sort();
    let mut listed = SLEEPERS;
    listed.sort_unstable();
    assert_eq!(found, listed);
}
