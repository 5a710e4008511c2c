//! The README's walk, word for word: what it tells people to type is run, and what comes out is what it shows.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use rustix::process::Signal;

use super::home::Home;
use super::process::binary;

/// Where the README says that its output is from.
const SHOWN_FOLDER: &str = "/srv/daybook";
/// Between the outputs of two steps.
const MARK: &str = "-- the next step --";
/// What the walk needs of the machine, as it says.
const PROGRAMS: [&str; 6] = ["bash", "timeout", "curl", "python3", "pg_dump", "pg_restore"];
/// What differs between two runs, and what stands for it. A change of the tables changes the dump.
const DIFFERENT: [(&str, &str); 7] = [
    ("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>"),
    (r"\d{8}T\d{6}Z-[0-9a-f]{32}", "<dump>"),
    ("[0-9a-f]{64}", "<digest>"),
    (r#"("(?:bytes|entries|seconds|tables)": ?)[\d.]+|\d+ (tables|bytes)\b"#, "${1}<number>${2}"),
    (r#"("worker":|worker: null ->) "[^"]+""#, "${1} <worker>"),
    (r#"("ran_milliseconds":|ran_milliseconds: null ->) \d+"#, "${1} <number>"),
];

/// Commands, and what the README shows of their output.
struct Step {
    commands: String,
    shown: String,
}

fn steps(readme: &str) -> Vec<Step> {
    let step = Regex::new(r"(?s)```sh\n(.*?)```\n\n```(?:text|json)\n(.*?)```").unwrap();
    let step = step.captures_iter(readme).map(|found| found.extract().1);
    step.map(|[commands, shown]| Step { commands: commands.to_owned(), shown: shown.to_owned() }).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn is_there(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|folder| folder.join(program).is_file())
}

/// A folder as a clone is, as far as the walk looks at it.
fn like_a_clone() -> Home {
    let home = Home::new().file(&fs::read_to_string(root().join("daybook.toml")).unwrap());
    let built = home.path().join("target/debug");
    fs::create_dir_all(&built).unwrap();
    symlink(binary(), built.join("daybook")).unwrap();
    symlink(root().join("jobs"), home.path().join("jobs")).unwrap();
    home
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn without_differences(output: &str, folder: &str) -> String {
    let text = output.trim().replace(folder, SHOWN_FOLDER);
    DIFFERENT.iter().fold(text, |text, (pattern, stand_in)| {
        Regex::new(pattern).unwrap().replace_all(&text, *stand_in).into_owned()
    })
}

#[tokio::test]
async fn the_readmes_walk_is_what_happens() {
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|program| !is_there(program)).collect();
    if !missing.is_empty() {
        return eprintln!("not walked: {missing:?} are not on PATH");
    }
    let steps = steps(&fs::read_to_string(root().join("README.md")).unwrap());
    assert!(steps.len() > 8, "the README has its walk: {}", steps.len());

    let home = like_a_clone();
    let serving = home.serve().await;
    let (_, password) = serving.admin.clone().unwrap();
    let typed = steps.iter().map(|step| format!("{}\necho '{MARK}'\n", step.commands)).collect::<String>();
    let typed = typed.replace("127.0.0.1:8080", &serving.address.to_string());
    let typed = typed.replace("127.0.0.1:8090", &format!("127.0.0.1:{}", free_port()));
    let typed =
        Regex::new("(?m)^password=.*$").unwrap().replace(&typed, format!("password='{password}'").as_str());
    // Whatever hangs ends before the test does, and with it all that was started in the background.
    let shell: Command =
        home.command_of(Path::new("timeout"), &["50", "bash", "-c", &format!("set -eu\n{typed}")]);
    let ended = super::Process::start(shell).ended().await.expect(0);

    let folder = home.path().canonicalize().unwrap();
    let outputs: Vec<&str> = ended.stdout.split(&format!("{MARK}\n")).collect();
    assert_eq!(outputs.len(), steps.len() + 1, "{}", ended.stdout);
    for (step, output) in steps.iter().zip(outputs) {
        let output = without_differences(output, folder.to_str().unwrap());
        assert_eq!(output, without_differences(&step.shown, SHOWN_FOLDER), "after {}", step.commands);
    }
    serving.stop(Signal::INT).await.expect(0);
    home.is_quiet().await;
}
