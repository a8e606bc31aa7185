//! Expands `~` and `$NAME` in paths as Python's `os.path.expanduser` and `os.path.expandvars` do.

/// The environment for expanding paths.
pub(super) struct Environment<'e> {
    /// The value of a variable, if it is set.
    pub(super) variable: &'e dyn Fn(&str) -> Option<String>,
    /// The home directory of a user of this name, or of the process's user for the empty name.
    pub(super) home: &'e dyn Fn(&str) -> Option<String>,
}

impl Environment<'_> {
    /// Replaces `~` or `~NAME` at the beginning of a path, and then `$NAME` and `${NAME}`. Unknown names are
    /// left unchanged, as in Python. The values of variables are not expanded again.
    pub(super) fn expand(&self, path: &str) -> String {
        self.variables(&self.user(path))
    }

    /// The home directory of the process's user.
    pub(super) fn own_home(&self) -> Option<String> {
        let set = (self.variable)("HOME").filter(|home| !home.is_empty());
        set.or_else(|| (self.home)(""))
    }

    fn user(&self, path: &str) -> String {
        let Some(rest) = path.strip_prefix('~') else { return path.to_owned() };
        let (name, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let home = if name.is_empty() { self.own_home() } else { (self.home)(name) };
        let Some(home) = home else { return path.to_owned() };
        let expanded = format!("{}{rest}", home.trim_end_matches('/'));
        if expanded.is_empty() { "/".to_owned() } else { expanded }
    }

    fn variables(&self, path: &str) -> String {
        let mut expanded = String::with_capacity(path.len());
        let mut rest = path;
        while let Some(at) = rest.find('$') {
            let (before, found) = rest.split_at(at);
            expanded.push_str(before);
            let (name, length) = variable(&found[1..]);
            let (whole, behind) = found.split_at(1 + length);
            match name.and_then(self.variable) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(whole),
            }
            rest = behind;
        }
        expanded.push_str(rest);
        expanded
    }
}

/// The name after a `$`, and the number of bytes that it takes with its braces.
fn variable(text: &str) -> (Option<&str>, usize) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            Some((name, _)) => (Some(name), name.len() + 2),
            None => (None, 0),
        };
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let length = text.bytes().position(|byte| !plain(byte)).unwrap_or(text.len());
    (Some(&text[..length]).filter(|name| !name.is_empty()), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of Python 3 with HOME=/home/a, X=/x, Y=$X, an empty EMPTY, and a user `b` with the home
    /// /home/b.
    const PYTHON: [(&str, &str); 21] = [
        ("~", "/home/a"),
        ("~/", "/home/a/"),
        ("~/hub", "/home/a/hub"),
        ("~b/hub", "/home/b/hub"),
        ("~nobody-here/hub", "~nobody-here/hub"),
        ("/a/~/b", "/a/~/b"),
        ("a~", "a~"),
        ("$X/hub", "/x/hub"),
        ("${X}/hub", "/x/hub"),
        ("${X}hub", "/xhub"),
        ("$Xhub", "$Xhub"),
        ("$X-$X", "/x-/x"),
        ("$Y", "$X"),
        ("$EMPTY/a", "/a"),
        ("$UNSET/a", "$UNSET/a"),
        ("${UNSET}/a", "${UNSET}/a"),
        ("${X", "${X"),
        ("$", "$"),
        ("$$X", "$/x"),
        ("a$é", "a$é"),
        ("~/$X", "/home/a//x"),
    ];

    fn environment(home: Option<&'static str>) -> impl Fn(&str) -> String {
        move |path| {
            let variable = |name: &str| {
                let known =
                    [("X", "/x"), ("Y", "$X"), ("EMPTY", "")].into_iter().find(|it| it.0 == name);
                known.map(|it| it.1).or(home.filter(|_| name == "HOME")).map(str::to_owned)
            };
            let home = |name: &str| match name {
                "" => Some("/root".to_owned()),
                "b" => Some("/home/b".to_owned()),
                _ => None,
            };
            Environment { variable: &variable, home: &home }.expand(path)
        }
    }

    #[test]
    fn paths_are_expanded_as_in_python() {
        let expand = environment(Some("/home/a"));
        for (path, expected) in PYTHON {
            assert_eq!(expand(path), expected, "{path}");
        }
        assert_eq!(environment(Some("/"))("~"), "/");
        assert_eq!(environment(Some("/home/a/"))("~/b"), "/home/a/b");
        // A service manager may start processes without HOME.
        assert_eq!(environment(None)("~/b"), "/root/b");
        assert_eq!(environment(Some(""))("~/b"), "/root/b");
    }
}
