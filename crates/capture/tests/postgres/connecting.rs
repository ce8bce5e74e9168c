//! Logging in: passwords, certificates, and errors that say which check failed.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_postgres::Client;
use walvec_capture::{CaptureError, Source, SourceConfig};
use walvec_throwaway::Cluster;

use crate::support::{Db, changes_to, cluster, copy, shown, start_cluster};

async fn refusal(mut config: SourceConfig, url: String) -> CaptureError {
    config.url = url.into();
    match Source::connect(config).await {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_names_its_reason_and_no_password() {
    let db = Db::new("refused", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let place = db.url.split_once('@').unwrap().1.to_owned();
    let config = db.config(&["t"]);
    for (url, code) in [
        (db.url_as("postgres", "wr0ng-secret"), "E_AUTH"),
        (db.url_as("nobody_here", "wr0ng-secret"), "E_AUTH"),
        (format!("postgres://postgres@{place}"), "E_AUTH"),
        ("postgres://u:wr0ng-secret@127.0.0.1:1/d".to_owned(), "E_CONNECT"),
        ("postgres://u:wr0ng-secret@host.invalid/d".to_owned(), "E_CONNECT"),
        (format!("{}_absent", db.url), "E_DATABASE"),
        (format!("{}?sslmode=require", db.url), "E_TLS"),
        (format!("{}?sslmode=verify-full&sslrootcert=/nowhere.pem", db.url), "E_TLS"),
        (format!("{}?sslmode=allow", db.url), "E_CONFIG"),
        (format!("{}?channel_binding=require", db.url), "E_AUTH"),
    ] {
        let error = refusal(config.clone(), url.clone()).await;
        assert_eq!(error.code(), code, "{url}: {error}");
        let told = format!("{error} {error:?} {}", error.remedy().unwrap_or_default());
        assert!(!told.contains("secret"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_about_the_server_are_known_after_connecting() {
    let db = Db::new("facts", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let source = Source::connect(db.config(&["t"])).await.unwrap();
    let server = source.server();
    assert_eq!(server.version_num / 10_000, Db::version().await);
    assert_eq!(server.capabilities.row_filters, Db::version().await >= 15);
    assert_eq!((server.timeline, server.database.as_str(), server.in_recovery), (1, "facts", false));
    assert!(server.system_id > 0 && server.database_oid > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_passwords_with_any_character_work_on_both_kinds_of_sessions() {
    let db = Db::new(
        "scram",
        "SET password_encryption = 'scram-sha-256';
         CREATE TABLE t (id int PRIMARY KEY);
         CREATE ROLE \"rôle @:/\" LOGIN REPLICATION SUPERUSER PASSWORD 'p@ss:/?#[]% ''\\ü';",
    )
    .await;
    let mut config = db.config(&["t"]);
    config.url = db.url_as("r%C3%B4le%20%40%3A%2F", "p%40ss%3A%2F%3F%23%5B%5D%25%20%27%5C%C3%BC").into();
    let (_, _, mut stream) = db.follow(config).await;
    let end = db.run_to("INSERT INTO t VALUES (1)").await;
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["+ {id:1}"]);
    let stored = db.client.query_one("SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'r%@%'", &[]).await.unwrap();
    assert!(stored.get::<_, String>(0).starts_with("SCRAM-SHA-256$"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_role_change_no_value() {
    let db = Db::new(
        "rolesettings",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, d date, i interval, f float8, b bytea, m money);
         INSERT INTO t VALUES (1, '2024-01-01 12:00+00', '2024-02-03', '1 day 02:00', 0.1, '\\x00ff', 1.5);
         CREATE ROLE odd LOGIN REPLICATION SUPERUSER PASSWORD 'odd';
         ALTER ROLE odd SET timezone = 'Asia/Tokyo'; ALTER ROLE odd SET datestyle = 'German';
         ALTER ROLE odd SET intervalstyle = 'iso_8601'; ALTER ROLE odd SET extra_float_digits = -10;
         ALTER ROLE odd SET bytea_output = 'escape'; ALTER ROLE odd SET client_encoding = 'LATIN1';
         ALTER ROLE odd SET default_transaction_read_only = on; ALTER ROLE odd SET row_security = on;
         ALTER ROLE odd SET statement_timeout = '1min'; ALTER ROLE odd SET search_path = 'pg_temp';",
    )
    .await;
    let source = db.source(db.config(&["t"])).await;
    let mut config = db.config(&["t"]);
    config.url = db.url_as("odd", "odd").into();
    let odd = Source::connect(config).await.unwrap();
    let rows = copy(&odd).await;
    assert_eq!(
        shown(&rows),
        [r#"+ {id:1 at:"2024-01-01 12:00:00+00" d:"2024-02-03" i:"1 day 02:00:00" f:0.1 b:"\\x00ff" m:"$1.50"}"#]
    );
    let mut stream = odd.open_stream().await.unwrap();
    let end = db.run_to("UPDATE t SET id = 1").await;
    let changes = changes_to(&mut stream, end).await;
    assert_eq!(shown(&changes)[0].trim_start_matches('~'), shown(&rows)[0].trim_start_matches('+'));
    let fetched = source.fetch_rows(&rows[0].table, &[rows[0].key().unwrap()]).await.unwrap();
    assert_eq!(fetched[0].1, *crate::values::new_row(&changes[0]));
}

/// Creates an authority, and a certificate of it for the name `localhost`.
fn certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(directory.join("san"), "subjectAltName=DNS:localhost\n").unwrap();
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {authority}.key -out {authority}.pem -days 2 -subj /CN={authority}"
        ));
    }
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile san");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out expired.pem -days 0 -extfile san");
}

/// Lets a server use the certificate among `files`, and returns the directory that it reads the certificate from; `None` if the server was
/// built without TLS.
async fn serve_tls(own: &Cluster, files: &Path) -> Option<PathBuf> {
    // The server's account must own its key.
    let owner = std::fs::metadata(own.directory()).unwrap();
    let reachable = own.directory().join("tls");
    std::fs::create_dir(&reachable).unwrap();
    chown(&reachable, Some(owner.uid()), Some(owner.gid())).unwrap();
    for (name, mode) in [("server.pem", 0o644), ("server.key", 0o600)] {
        let path = reachable.join(name);
        std::fs::copy(files.join(name), &path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let client = own.connect("tls").await.unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.ok()?;
    for statement in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{}'", reachable.join("server.pem").display()),
        format!("ALTER SYSTEM SET ssl_key_file = '{}'", reachable.join("server.key").display()),
        "SELECT pg_reload_conf()".to_owned(),
        "CREATE TABLE t (id int PRIMARY KEY)".to_owned(),
    ] {
        client.batch_execute(&statement).await.unwrap();
    }
    let listening = async || {
        let row = own.connect("tls").await.unwrap().query_one("SHOW ssl", &[]).await.unwrap();
        row.get::<_, String>(0) == "on"
    };
    while !listening().await {
        tokio::task::yield_now().await;
    }
    Some(reachable)
}

/// Copies and opens the stream, and returns whether every session meanwhile is encrypted.
async fn is_encrypted(source: &Source, client: &Client) -> bool {
    source.ensure_publication().await.unwrap();
    let _ = copy(source).await;
    let stream = source.open_stream().await.unwrap();
    let query = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'walvec'";
    let row = client.query_one(query, &[]).await.unwrap();
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_proves_the_server_and_says_which_check_failed() {
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    let own = start_cluster(&[]).await;
    let url = own.create_database("tls").await.unwrap();
    let client = own.connect("tls").await.unwrap();
    // Some packages of PostgreSQL are built without TLS. Other servers run this test.
    let Some(reachable) = serve_tls(&own, files.path()).await else { return };

    let ca = files.path().join("ca.pem").display().to_string();
    let other = files.path().join("other.pem").display().to_string();
    let named = url.replace("127.0.0.1", "localhost");
    let config = SourceConfig {
        url: String::new().into(),
        slot: "tls".to_owned(),
        publication: "tls".to_owned(),
        tables: vec![crate::support::spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    };
    for (place, settings, reason) in [
        (&url, format!("sslmode=verify-full&sslrootcert={ca}"), "not valid for"),
        (&named, format!("sslmode=verify-full&sslrootcert={other}"), "UnknownIssuer"),
        (&named, format!("sslmode=verify-ca&sslrootcert={other}"), "UnknownIssuer"),
        (&named, "sslmode=verify-full".to_owned(), "UnknownIssuer"),
    ] {
        let error = refusal(config.clone(), format!("{place}?{settings}")).await;
        assert_eq!(error.code(), "E_TLS", "{settings}: {error}");
        assert!(error.to_string().contains(reason), "{settings}: {error}");
    }
    for (place, settings) in [
        (&named, format!("sslmode=verify-full&sslrootcert={ca}")),
        (&named, format!("sslrootcert={ca}")),
        (&url, format!("sslmode=verify-ca&sslrootcert={ca}")),
        (&url, "sslmode=require".to_owned()),
        (&url, "sslmode=require&channel_binding=require".to_owned()),
        (&url, "sslmode=prefer".to_owned()),
    ] {
        let mut config = config.clone();
        config.url = format!("{place}?{settings}").into();
        let source = Source::connect(config).await.unwrap();
        assert!(is_encrypted(&source, &client).await, "{settings}");
    }

    // The server reloads its certificate, and uses it for new sessions.
    std::fs::copy(files.path().join("expired.pem"), reachable.join("server.pem")).unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let url = format!("{named}?sslmode=verify-full&sslrootcert={ca}");
    let error = loop {
        match Source::connect(SourceConfig { url: url.clone().into(), ..config.clone() }).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "E_TLS", "{error}");
    assert!(error.to_string().to_lowercase().contains("expired"), "{error}");
    own.close().await.unwrap();
    let _ = cluster().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_both_kinds_of_sessions() {
    // In the system's directory for temporary files, because the path of a socket must be short.
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let directory = sockets.path().to_str().unwrap();
    let own = start_cluster(&[("unix_socket_directories", directory)]).await;
    let url = own.create_database("socket").await.unwrap();
    let client = own.connect("socket").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let (login, place) = url.split_once('@').unwrap();
    let port = place.split_once(':').unwrap().1.split_once('/').unwrap().0;
    let config = SourceConfig {
        url: format!("{login}@/socket?host={directory}&port={port}").into(),
        slot: "socket".to_owned(),
        publication: "socket".to_owned(),
        tables: vec![crate::support::spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    };
    let source = Source::connect(config).await.unwrap();
    source.ensure_publication().await.unwrap();
    assert_eq!(shown(&copy(&source).await), ["+ {id:1}"]);
    let mut stream = source.open_stream().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let row = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let end = row.get::<_, String>(0).parse().unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["+ {id:2}"]);
    stream.close().await.unwrap();
    own.close().await.unwrap();
}
