//! `docs/hooks.md` is made from the hook table; this test says when the two differ.

use crate::hook::Hook;
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hooks.md");

const HEAD: &str = "\
# What is hooked

Made from `shim/src/table.rs` by `make docs`; a test compares the two. Everything else of the driver API goes straight to
the driver. The handler is a function in `shim/src/handlers/` (`sampling` in `shim/src/`). Each line is also a counter of
calls and of errors in the segment; `aictl stats PID --json` shows them under `calls` and `errors`.

A name that a program looks up and that is hooked here, but whose answer is a function we do not know (an old version,
say), is counted and named by `aictl doctor PID`.

| symbol | what it does | handler |
| --- | --- | --- |
";

#[test]
fn hooks_doc_equals_the_table() {
    let mut page = HEAD.to_owned();
    for (hook, handler) in Hook::ALL.iter().zip(Hook::HANDLERS) {
        let (symbol, kind) = (hook.symbol().to_string_lossy(), hook.kind());
        writeln!(page, "| `{symbol}` | {kind:?} | `{handler}` |").expect("a String takes all");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, page).expect("docs/hooks.md can be written");
        return;
    }
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(committed == page, "docs/hooks.md is not what the table says: run `make docs`");
}
