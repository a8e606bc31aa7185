//! The table of options. Each option is written once, in a `section!`, and everything else is derived from it.

use std::sync::LazyLock;

use super::{
    Config,
    codec::{Literal, SWITCH},
};

/// The prefix of every environment variable of the server.
pub const ENV_PREFIX: &str = "SIGLIP_";

/// The separator of a list's values in one text.
pub const LIST_SEPARATOR: &str = ";";

/// One option with all of its names.
#[derive(Debug)]
pub struct Spec {
    /// The table in the config file.
    pub section: &'static str,
    /// The key in that table, and the field's name.
    pub key: &'static str,
    /// The flag, without its dashes: `section-key` unless the option has a shorter one.
    pub flag: String,
    /// The environment variable: [`ENV_PREFIX`] and the flag in capitals.
    pub env: String,
    /// The placeholder for the value in the help.
    pub placeholder: &'static str,
    /// The documentation of the field, on one line.
    pub doc: String,
    /// Whether the option has a short flag, and so appears in the short help.
    pub main: bool,
    /// Whether the option has several values: the flag may be repeated, the file may have an array, and text
    /// separates values by [`LIST_SEPARATOR`].
    pub list: bool,
    /// Whether the flag may be given without a value, which means `true`.
    pub switch: bool,
}

impl Spec {
    /// The option's name in the file: `section.key`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// Every option, in the order of the file.
pub static OPTIONS: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    let config = Config::default();
    config
        .sections()
        .iter()
        .flat_map(|(section, _, fields)| fields.fields().iter().map(|field| spec(section, field)))
        .collect()
});

fn spec(section: &'static str, field: &Field) -> Spec {
    let long = || format!("{section}-{}", field.key).replace('_', "-");
    let flag = field.flag.map_or_else(long, str::to_owned);
    Spec {
        section,
        key: field.key,
        env: format!("{ENV_PREFIX}{}", flag.to_uppercase().replace('-', "_")),
        flag,
        placeholder: field.placeholder,
        doc: field.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "),
        main: field.flag.is_some(),
        list: field.list,
        switch: field.placeholder == SWITCH,
    }
}

/// A field of a section, as written in its `section!`.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) flag: Option<&'static str>,
    pub(super) placeholder: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) list: bool,
}

/// Access to a struct of options by the names of its fields.
pub(super) trait Section {
    fn fields(&self) -> &'static [Field];
    /// # Errors
    /// Says what is wrong with the text.
    fn set(&mut self, key: &str, text: &str) -> Result<(), String>;
    fn get(&self, key: &str) -> Literal;
}

/// Defines a section: `field: type = default, Codec "PLACEHOLDER"[, flag "name"];`
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident {$(
            $(#[doc = $doc:literal])*
            $field:ident: $type:ty = $default:expr, $codec:ident $placeholder:literal
                $(, flag $flag:literal)?;
        )*}
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {$(
            $(#[doc = $doc])*
            pub $field: $type,
        )*}

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::options::Section for $name {
            fn fields(&self) -> &'static [$crate::config::options::Field] {
                &[$($crate::config::options::Field {
                    key: stringify!($field),
                    flag: [$(Some($flag),)? None][0],
                    placeholder: $placeholder,
                    doc: &[$($doc),*],
                    list: <$codec as $crate::config::codec::Codec<$type>>::LIST,
                }),*]
            }

            fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $(stringify!($field) => {
                        self.$field =
                            <$codec as $crate::config::codec::Codec<$type>>::parse(text)?;
                    })*
                    _ => return Err("no such option".to_owned()),
                }
                Ok(())
            }

            fn get(&self, key: &str) -> $crate::config::codec::Literal {
                match key {
                    $(stringify!($field) =>
                        <$codec as $crate::config::codec::Codec<$type>>::print(&self.$field),)*
                    _ => $crate::config::codec::Literal::Unset,
                }
            }
        }
    };
}

/// Defines the struct of all sections.
macro_rules! sections {
    (
        $(#[doc = $about:literal])*
        $name:ident {$(
            #[doc = $doc:literal]
            $section:ident: $type:ty,
        )*}
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {$(
            #[doc = $doc]
            pub $section: $type,
        )*}

        impl $name {
            /// The sections: name, documentation, fields.
            fn sections(&self) -> Vec<(&'static str, &'static str, &dyn options::Section)> {
                vec![$((stringify!($section), $doc, &self.$section)),*]
            }

            fn section_mut(&mut self, name: &str) -> Option<&mut dyn options::Section> {
                match name {
                    $(stringify!($section) => Some(&mut self.$section),)*
                    _ => None,
                }
            }
        }
    };
}

pub(super) use {section, sections};

impl Config {
    /// Sets an option from text.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub(super) fn set(&mut self, option: &Spec, text: &str) -> Result<(), String> {
        match self.section_mut(option.section) {
            Some(section) => section.set(option.key, text),
            None => Err("no such option".to_owned()),
        }
    }

    /// An option's value, as in the file.
    #[must_use]
    pub fn get(&self, option: &Spec) -> Literal {
        self.sections()
            .iter()
            .find(|(name, ..)| *name == option.section)
            .map_or(Literal::Unset, |(_, _, section)| section.get(option.key))
    }

    /// An option's value, as for a flag; none if it is not set.
    #[must_use]
    pub fn text(&self, option: &Spec) -> Option<String> {
        match self.get(option) {
            Literal::Text(text) => Some(text),
            Literal::Integer(number) => Some(number.to_string()),
            Literal::Boolean(on) => Some(on.to_string()),
            Literal::Unset => None,
        }
    }

    /// The sections with their documentation, in order.
    pub(super) fn section_docs() -> Vec<(&'static str, &'static str)> {
        Self::default().sections().iter().map(|(name, doc, _)| (*name, doc.trim())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_used_once() {
        let flags: HashSet<_> = OPTIONS.iter().map(|option| &option.flag).collect();
        let variables: HashSet<_> = OPTIONS.iter().map(|option| &option.env).collect();
        assert_eq!(flags.len(), OPTIONS.len());
        assert_eq!(variables.len(), OPTIONS.len());
    }

    #[test]
    fn names_follow_one_rule() {
        let find = |path: &str| {
            let option = OPTIONS.iter().find(|option| option.path() == path).expect(path);
            (option.flag.as_str(), option.env.as_str())
        };
        assert_eq!(find("listen.http"), ("listen", "SIGLIP_LISTEN"));
        assert_eq!(find("limits.max_items"), ("limits-max-items", "SIGLIP_LIMITS_MAX_ITEMS"));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let defaults = Config::default();
        let mut again = Config::default();
        for option in OPTIONS.iter() {
            let Some(text) = defaults.text(option) else { continue };
            again.set(option, &text).unwrap_or_else(|error| panic!("{}: {error}", option.path()));
        }
        assert_eq!(again, defaults);
    }
}
