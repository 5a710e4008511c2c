//! What is left of an attempt: its result and its artifacts.

use std::sync::Mutex;

use futures::future::BoxFuture;

use super::*;
use crate::jobs::{Artifact, KeptArtifact};

/// Reads what it is given, as a store would; keeps no file called `refused`.
#[derive(Default)]
struct Reading(Mutex<Vec<(String, Vec<u8>)>>);

impl KeepArtifacts for Reading {
    fn keep<'a>(&'a self, found: Vec<Artifact>) -> BoxFuture<'a, Vec<KeptArtifact>> {
        Box::pin(async move {
            let mut kept = vec![];
            for Artifact { name, size, path } in found {
                let content = tokio::fs::read(path).await.unwrap();
                assert_eq!(content.len() as u64, size);
                self.0.lock().unwrap().push((name.clone(), content));
                if name != "refused" {
                    kept.push(KeptArtifact { name, size, sha256: String::new() });
                }
            }
            kept
        })
    }
}

async fn result_of(script: &str) -> (Option<domain::JsonText>, Vec<Output>) {
    let mut attempt = shell(&root(), script);
    attempt.env = vec![("KEY".to_owned(), SecretBytes::new("pa\"ss/w\u{f6}rd"))];
    let (finished, output) = run_all(attempt).await;
    (finished.result, output)
}

#[tokio::test]
async fn the_last_json_line_is_the_result_unless_a_file_was_written() {
    let lines =
        r#"echo '{"step": 1}'; echo '[broken'; echo '{"step": 2}'; echo done; echo '{"step": 3}' >&2"#;
    assert_eq!(result_of(lines).await.0, Some(json!({"step": 2}).into()));
    assert_eq!(result_of("printf '[1, 2]'; exit 3").await.0, Some(json!([1, 2]).into()));
    assert_eq!(result_of("echo 3; echo '\"text\"'; echo null").await.0, None);
    let both = format!(r#"{lines}; echo '{{"file": true}}' > "$DAYBOOK_RESULT""#);
    assert_eq!(result_of(&both).await.0, Some(json!({"file": true}).into()));
    let broken = format!(r#"{lines}; echo '{{file' > "$DAYBOOK_RESULT""#);
    assert_eq!(result_of(&broken).await.0, None, "one that was written counts, whatever it is");
}

#[tokio::test]
async fn secrets_are_masked_in_it() {
    let script = r#"printf '{"key": "pa\\"ss'; sleep 0.05; printf '\\/w\\u00f6rd", "%s": ["<pa\\u0022ss/wörd>"]}\n' x"#;
    let (result, output) = result_of(script).await;
    assert_eq!(result, Some(json!({"key": "***", "x": ["<***>"]}).into()));
    assert_eq!(lines(&output, Stream::Stdout), [r#"{"key": "***", "x": ["<***>"]}"#]);
}

#[tokio::test]
async fn escapes_that_python_makes_are_masked() {
    let script = "import json, os, urllib.parse as url\nkey = os.environ['KEY']\n\
        print(json.dumps(['<' + key + '>']))\n\
        print(json.dumps('<' + key + '>', ensure_ascii=False))\n\
        for quote in (url.quote, url.quote_plus): print('<' + quote(key) + '>', '<' + quote(key, safe='') + '>')\n\
        print('<' + ''.join(f'%{byte:02x}' for byte in key.encode()) + '>')";
    let mut attempt = attempt(&root(), &["python3", "-c", script]);
    attempt.plain_env = vec![("PYTHONUTF8".to_owned(), "1".to_owned())];
    attempt.env = vec![("KEY".to_owned(), SecretBytes::new("pä \"ss\"\\/+&%41\n\u{1F511}"))];
    let (_, output) = run_all(attempt).await;
    let expected = ["[\"<***>\"]", "\"<***>\"", "<***> <***>", "<***> <***>", "<***>"];
    assert_eq!(lines(&output, Stream::Stdout), expected);
}

#[tokio::test]
async fn a_line_of_fifty_megabytes_is_cut_and_not_the_result() {
    let script = "import sys\nprint('{}')\nprint('[' + '1,' * 25_000_000 + '1]')\nprint('after')";
    let (finished, output) = run_all(attempt(&root(), &["python3", "-c", script])).await;
    assert_eq!(finished.ending, Ending::Exited { code: 0 });
    let stdout = lines(&output, Stream::Stdout);
    assert_eq!((stdout.len(), stdout[0], stdout[2]), (3, "{}", "after"));
    assert!(stdout[1].ends_with("[line cut at 8 KiB]") && stdout[1].len() < 9000);
    assert_eq!(finished.result, None);
    assert_eq!(
        lines(&output, Stream::System),
        ["the last JSON line is longer than 1 MiB and was not kept as the result"]
    );
}

#[tokio::test]
async fn one_that_closes_its_output_runs_to_its_end() {
    let script = r#"echo before; exec >&- 2>&-; sleep 0.2; echo '{"rows": 3}' > "$DAYBOOK_RESULT"; exit 4"#;
    let (finished, output) = run_all(shell(&root(), script)).await;
    assert_eq!(
        (finished.ending, finished.result),
        (Ending::Exited { code: 4 }, Some(json!({"rows": 3}).into()))
    );
    assert_eq!(lines(&output, Stream::Stdout), ["before"]);
}

#[tokio::test]
async fn files_are_handed_on_before_the_folder_goes() {
    let root = root();
    let script = r#"cd "$DAYBOOK_ARTIFACTS"; mkdir sub; printf abc > sub/b; echo > refused; ln -s /etc/passwd link; echo ready; "#;
    for (then, ending) in [
        ("exit 0", Ending::Exited { code: 0 }),
        ("exit 3", Ending::Exited { code: 3 }),
        ("sleep 600", Ending::TimedOut),
    ] {
        let mut attempt = shell(&root, &format!("{script}{then}"));
        if ending == Ending::TimedOut {
            attempt.timeout = Duration::from_secs(2);
        }
        let reading = Reading::default();
        let (finished, output) = run_keeping(attempt, |_, _| {}, &reading).await;
        assert_eq!(finished.ending, ending);
        let kept = KeptArtifact { name: "sub/b".to_owned(), size: 3, sha256: String::new() };
        assert_eq!(finished.artifacts, [kept]);
        let given = reading.0.into_inner().unwrap();
        assert_eq!(given, [("refused".to_owned(), b"\n".to_vec()), ("sub/b".to_owned(), b"abc".to_vec())]);
        let said = lines(&output, Stream::System);
        assert!(said.contains(&"artifact left out: \"link\": it is not a regular file"), "{said:?}");
        assert!(said.contains(&"of 2 artifacts only 1 could be stored"), "{said:?}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_cancelled_job_leaves_nothing() {
    let script = r#"echo x > "$DAYBOOK_ARTIFACTS/x"; echo ready; sleep 600"#;
    let reading = Reading::default();
    let cancel = |_: &str, stop: &watch::Sender<_>| _ = stop.send_replace(Some(StopReason::Cancel));
    let (finished, _) = run_keeping(shell(&root(), script), cancel, &reading).await;
    assert_eq!((finished.ending, finished.artifacts), (Ending::Cancelled, vec![]));
    assert!(reading.0.into_inner().unwrap().is_empty());
}
