//! The table of codes as docs/errors.md.

use super::{Code, CodeSubject, SUBJECTS};

/// The text before the codes.
const HEAD: &str = "\
# Error codes

<!-- Made of the table in crates/walvec/src/codes. Change it there, then type:
     WALVEC_WRITE_DOCS=1 cargo test -p walvec --features failpoints codes -->

walvec names what it has found by a code: on the last line of stderr when a command ends with an error, in `walvec check`, in the log, in the
status, and for each parked row. Programs can rely on the codes. `walvec explain E_SLOT_LOST` prints an entry of this page, `walvec explain`
lists all codes. What exit codes mean is in [Operations](operations.md#starting-and-stopping).
";

/// Returns the whole page.
pub(super) fn page() -> String {
    let contents: Vec<String> = SUBJECTS.iter().map(|subject| listed(subject)).collect();
    let subjects: Vec<String> = SUBJECTS.iter().map(|subject| section(subject)).collect();
    format!("{HEAD}\n{}\n\n{}\n", contents.join("\n"), subjects.join("\n\n"))
}

/// Returns a subject's entry in the list of contents.
fn listed(CodeSubject { title, codes, .. }: &CodeSubject) -> String {
    let links: Vec<String> = codes.iter().map(|code| link(code.name, &format!("#{}", anchor(code.name)))).collect();
    format!("- {}: {}", link(title, &format!("#{}", anchor(title))), links.join(", "))
}

/// Returns the section of a subject.
fn section(CodeSubject { title, intro, codes }: &CodeSubject) -> String {
    let head = [Some(format!("## {title}")), intro.map(str::to_owned)];
    let parts: Vec<String> = head.into_iter().flatten().chain(codes.iter().map(entry)).collect();
    parts.join("\n\n")
}

/// Returns a code under a heading of its own, which links can name.
fn entry(Code { name, meaning, risk, remedy, see }: &Code) -> String {
    let more = see.map_or_else(String::new, |see| {
        let page = see.split('#').next().unwrap_or(see);
        format!("\n- **More:** {}", link(page, see))
    });
    format!("### {name}\n\n{meaning}\n\n- **At risk:** {risk}\n- **What to do:** {remedy}{more}")
}

fn link(text: &str, target: &str) -> String {
    format!("[{text}]({target})")
}

/// Returns the anchor that GitHub makes of a heading of letters, blanks and underscores.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}
