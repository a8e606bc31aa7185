//! The page about errors, with an entry for each code: as Markdown for `docs/errors.md`, and as HTML for
//! `/docs/errors`. The `type` of every problem document links to it.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

use super::POLICY;
use crate::{
    error::{Code, Spec},
    rest::page::secured,
};

/// The `type` of a problem document: a link to the entry of its code. Relative, since only the client knows the
/// address of this server.
pub(in crate::rest) fn problem_type(code: Code) -> String {
    format!("/docs/errors#{}", code.slug())
}

/// The text above the entries.
const INTRODUCTION: [&str; 2] = [
    "Every error has one of these codes, in all APIs: it is `code` in a problem document and in the error formats \
     of the compatible APIs, `siglip-code` in gRPC's metadata, and `reason` in the metrics. Use the code and not \
     the message to distinguish errors. The message says what is wrong with the request, and `field` (or `param`) \
     names the invalid part.",
    "The `type` of a problem document is a link to the entry of its code on this page. Every server has this page \
     at `/docs/errors`.",
];

fn facts(spec: Spec) -> String {
    let retry = if spec.retryable { "a retry may help" } else { "a retry does not help" };
    let grpc = tonic::Code::from_i32(spec.grpc);
    format!("HTTP {}, gRPC `{grpc:?}`; {retry}.", spec.status.as_u16())
}

/// The file `docs/errors.md`.
#[must_use]
pub fn error_page() -> String {
    let mut page = format!(
        "# Errors\n\n<!-- Written by a test; `src/error/help.rs` has the words. -->\n\n{}\n",
        INTRODUCTION.join("\n\n")
    );
    for code in Code::ALL {
        let (spec, help) = (code.spec(), code.help());
        page += &format!(
            "\n## {}\n\n{}. {}\n\n**Cause.** {}\n\n**What to do.** {}\n",
            spec.slug,
            spec.title,
            facts(spec),
            help.cause,
            help.fix,
        );
    }
    page
}

/// Converts a plain paragraph with code in backticks to HTML.
fn html(text: &str) -> String {
    let escaped = htmlize::escape_text(text);
    let parts = escaped.split('`').enumerate();
    let marked =
        parts.map(
            |(index, part)| {
                if index % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }
            },
        );
    marked.collect()
}

const STYLE: &str = "nav a{margin-right:1rem}body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif;\
    color-scheme:light dark}h2{font-family:ui-monospace,monospace;font-size:1.1rem;margin-top:2.5rem}\
    h2:target{text-decoration:underline}code{font-family:ui-monospace,monospace}";

/// The same page as HTML.
fn as_html() -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Errors of siglip-server</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n\
         <nav><a href=\"../\">siglip-server</a> <a href=\"./\">API</a></nav>\n<main>\n<h1>Errors</h1>\n"
    );
    for text in INTRODUCTION {
        page += &format!("<p>{}</p>\n", html(text));
    }
    for code in Code::ALL {
        let (spec, help) = (code.spec(), code.help());
        page += &format!(
            "<h2 id=\"{slug}\">{slug}</h2>\n<p>{}. {}</p>\n<p><strong>Cause.</strong> {}</p>\n\
             <p><strong>What to do.</strong> {}</p>\n",
            html(spec.title),
            html(&facts(spec)),
            html(help.cause),
            html(help.fix),
            slug = spec.slug,
        );
    }
    page + "</main>\n"
}

/// Serves the page.
pub(in crate::rest) async fn errors() -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    secured((content_type, as_html()).into_response(), POLICY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_entry_in_both_forms() {
        let (markdown, page) = (error_page(), as_html());
        for code in Code::ALL {
            let slug = code.slug();
            assert!(markdown.contains(&format!("\n## {slug}\n")), "{slug}");
            assert!(page.contains(&format!("<h2 id=\"{slug}\">")), "{slug}");
            assert!(problem_type(code).ends_with(&format!("#{slug}")));
            let help = code.help();
            for text in [help.cause, help.fix] {
                assert!(
                    text.ends_with('.') && text.matches('`').count() % 2 == 0,
                    "{slug}: {text}"
                );
            }
        }
    }

    #[test]
    fn words_are_escaped_and_code_is_marked() {
        assert_eq!(html("a < b & `c > d`"), "a &lt; b &amp; <code>c &gt; d</code>");
    }
}
