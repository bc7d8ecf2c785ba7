//! The live page at `/`: files that are part of the agent's binary and need no build step.
//!
//! The page asks only this agent, and shows names of containers, which anybody may choose. So its policy forbids all
//! other addresses, all scripts and styles but these files, and making elements from text.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;

/// Content security policy of the page, see <https://www.w3.org/TR/CSP3/> and <https://www.w3.org/TR/trusted-types/>.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// The path under which requests for any of the page's files are counted.
pub(super) const FILES_PATH: &str = "/page/";

/// Path, content type and text of a file.
type File = (&'static str, &'static str, &'static str);

macro_rules! file {
    ($kind:expr, $name:literal) => {
        (
            concat!("/page/", $name),
            $kind,
            include_str!(concat!("page/", $name)),
        )
    };
}

const FILES: [File; 19] = [
    file!(SCRIPT, "address.js"),
    file!(SCRIPT, "agent.js"),
    file!(SCRIPT, "bars.js"),
    file!(SCRIPT, "causes.js"),
    file!(SCRIPT, "detail.js"),
    file!(SCRIPT, "dom.js"),
    file!(SCRIPT, "explain.js"),
    file!(SCRIPT, "feed.js"),
    file!(SCRIPT, "format.js"),
    file!(IMAGE, "icon.svg"),
    file!(SCRIPT, "levels.js"),
    file!(SCRIPT, "machine.js"),
    file!(SCRIPT, "main.js"),
    file!(STYLE, "parts.css"),
    file!(SCRIPT, "placement.js"),
    file!(SCRIPT, "rows.js"),
    file!(STYLE, "style.css"),
    file!(SCRIPT, "table.js"),
    file!(SCRIPT, "timeline.js"),
];

/// Returns the routes of the page and its files. `links` is the list of paths at the foot of the page, as HTML.
pub(super) fn router(links: &str) -> Router {
    let index = include_str!("page/index.html")
        .replace("{version}", env!("CARGO_PKG_VERSION"))
        .replace("{links}", links);
    let router = serve(Router::new(), "/", HTML, index.into());
    FILES
        .into_iter()
        .fold(router, |router, (path, kind, text)| {
            serve(router, path, kind, Bytes::from_static(text.as_bytes()))
        })
}

/// Returns whether a path is that of one of the page's files.
pub(super) fn is_file(path: &str) -> bool {
    FILES.iter().any(|(file, ..)| *file == path)
}

/// Serves a file; all answers share its text.
fn serve(router: Router, path: &str, kind: &'static str, text: Bytes) -> Router {
    let tag = tag(&text);
    router.route(
        path,
        get(async move |headers: HeaderMap| answer(&headers, kind, &tag, text)),
    )
}

/// Returns the file, or 304 if the browser has it already.
fn answer(headers: &HeaderMap, kind: &'static str, tag: &str, text: Bytes) -> Response {
    let common = [
        (header::ETAG, tag),
        // Browsers revalidate each file, so that after an update of the agent none is older than the others.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    if has(headers, tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let own = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (common, own, text).into_response()
}

/// Returns whether `If-None-Match` has the tag, in its strong or weak form.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// Returns an entity tag for this content.
fn tag(text: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FILES, has};
    use axum::http::{HeaderMap, HeaderValue, header};

    #[test]
    fn every_file_is_served_and_used() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/page");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        let served: BTreeSet<String> = FILES
            .iter()
            .map(|(path, ..)| path.strip_prefix("/page/").unwrap().to_owned())
            .collect();
        assert_eq!(there, served);
        let all: String = FILES.iter().map(|(.., text)| *text).collect();
        let all = all + include_str!("page/index.html");
        for name in &served {
            assert!(
                all.contains(&format!("\"./{name}\"")) || all.contains(&format!("\"page/{name}\"")),
                "nothing refers to {name}"
            );
        }
    }

    #[test]
    fn browsers_are_not_sent_what_they_have() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            has(&headers, "\"1a\"")
        };
        for value in ["\"1a\"", "W/\"1a\"", "\"0\", \"1a\"", "*"] {
            assert!(asked(value), "{value}");
        }
        for value in ["", "\"1\"", "1a", "\"1a", ",,"] {
            assert!(!asked(value), "{value}");
        }
        assert!(!has(&HeaderMap::new(), "\"1a\""));
    }
}
