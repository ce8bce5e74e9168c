//! What the commands print and what describes them, in full: help, the schema of walvec.yaml, the API's description, and the path of a
//! small database from `check` to `status`.

use anyhow::Result;
use serde_json::Value;
use walvec_e2e::{Collection, Settings, Test, TestContext, test};
use walvec_pipeline::Status;

use crate::reviewed::{assert_reviewed, assert_run_reviewed, transcript};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(the_help_of_every_command_changes_only_where_a_review_sees_it).once(),
        test!(the_schema_of_the_configuration_changes_only_where_a_review_sees_it).once(),
        test!(the_description_of_the_api_changes_only_where_a_review_sees_it).once(),
        test!(what_check_status_and_verify_print_changes_only_where_a_review_sees_it).once(),
    ]
}

fn items() -> Settings {
    Settings::new([Collection::new("items", "public.items", "{{ name }}")])
}

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10,2));
    INSERT INTO items VALUES (1, 'one', 1), (2, 'two', 2.5), (3, 'three', NULL)";

/// Returns the commands of a group, which its help lists.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
}

async fn the_help_of_every_command_changes_only_where_a_review_sees_it(context: TestContext) -> Result<()> {
    let (mut all, mut asked) = (String::new(), vec![Vec::<String>::new()]);
    while let Some(command) = asked.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let output = context.walvec(&arguments).await?;
        all.push_str(&transcript(&arguments, &output));
        let inner = commands(std::str::from_utf8(&output.stdout)?)
            .map(|name| [command.as_slice(), &[name.to_owned()]].concat());
        let before = asked.len();
        asked.extend(inner);
        asked[before..].reverse();
    }
    assert_reviewed("help", &all);
    Ok(())
}

async fn the_schema_of_the_configuration_changes_only_where_a_review_sees_it(context: TestContext) -> Result<()> {
    let output = context.walvec(&["schema"]).await?;
    assert_reviewed("schema", std::str::from_utf8(&output.stdout)?);
    Ok(())
}

async fn the_description_of_the_api_changes_only_where_a_review_sees_it(context: TestContext) -> Result<()> {
    context.execute(TABLE).await?;
    let walvec = context.start(&items()).await?;
    let description: Value = walvec.get_json("/openapi.json", &[]).await?;
    assert_reviewed("openapi", &format!("{description:#}"));
    walvec.stop().await
}

async fn what_check_status_and_verify_print_changes_only_where_a_review_sees_it(context: TestContext) -> Result<()> {
    let mut all = String::new();
    let mut show = async |arguments: &[&str]| -> Result<()> {
        let output = context.walvec(arguments).await?;
        all.push_str(&transcript(arguments, &output));
        Ok(())
    };
    context.execute(TABLE).await?;
    context.configure(&items())?;
    show(&["check"]).await?;
    show(&["status"]).await?;
    let mut walvec = context.start(&items()).await?;
    walvec.caught_up(&context).await?;
    let is_settled =
        |now: &Status| now.collections[0].points == Some(3) && now.lag_ms.is_some() && now.lag_bytes.is_some();
    walvec.wait_for("points and lag are known", is_settled).await?;
    for arguments in
        [&["check"][..], &["status"], &["collections"], &["search", "one"], &["verify"], &["dead-letters", "list"]]
    {
        show(arguments).await?;
    }
    walvec.stop().await?;
    show(&["status"]).await?;
    show(&["check"]).await?;
    show(&["verify"]).await?;
    assert_run_reviewed(&context, "small_database", &all);
    Ok(())
}
