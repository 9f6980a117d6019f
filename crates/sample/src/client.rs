//! The calls that `db`'s hooks make. Blocking and without a runtime: a hook is on the way of every failover, and a
//! process that starts nothing is through sooner.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Why a call to a `db` did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there, or it does not accept.
    #[error("failed to connect to the db at {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },

    /// The connection broke, or the answer took too long.
    #[error("the db at {address} did not answer `{request}`")]
    Talk {
        /// Where.
        address: SocketAddr,
        /// What was asked.
        request: String,
        /// What the system said.
        source: io::Error,
    },

    /// Something answered that is not a `db`.
    #[error("what listens at {address} is not a db: {problem}")]
    NotADb {
        /// Where.
        address: SocketAddr,
        /// What is wrong with the answer.
        problem: String,
    },

    /// It said no.
    #[error("the db at {address} refused (status {status}): {reason}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// HTTP status.
        status: u16,
        /// In its own words.
        reason: String,
    },

    /// An address that is none.
    #[error("`{given}` is not an address: write HOST:PORT, as in 127.0.0.1:6380")]
    Address {
        /// As given.
        given: String,
    },
}

/// Makes the `db` at `address` the active at `epoch`. Returns its answer, a line of JSON.
pub fn promote(address: SocketAddr, epoch: u64, patience: Duration) -> Result<String, CallError> {
    let body = serde_json::json!({ "epoch": epoch }).to_string();
    call(address, "POST", "/promote", &body, patience)
}

/// Makes the `db` at `address` refuse reads and writes from now on; all it acknowledged before is on disk.
pub fn demote(address: SocketAddr, patience: Duration) -> Result<String, CallError> {
    call(address, "POST", "/demote", "", patience)
}

/// Makes the `db` at `address` copy everything from the one at `active` (HOST:PORT), and go on copying.
/// Returns when it has begun; `ready` says when it has caught up.
pub fn follow(address: SocketAddr, active: &str, patience: Duration) -> Result<String, CallError> {
    let wrong = || CallError::Address {
        given: active.to_owned(),
    };
    let (host, port) = active.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let body = serde_json::json!({ "host": host, "port": port }).to_string();
    call(address, "POST", "/follow", &body, patience)
}

/// Says whether the `db` at `address` has all that its active acknowledged; refused with the reason if not.
pub fn ready(address: SocketAddr, patience: Duration) -> Result<String, CallError> {
    call(address, "GET", "/ready", "", patience)
}

/// Longest answer that is read: a `db` says a few hundred bytes, so anything longer is something else.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

fn call(address: SocketAddr, method: &str, path: &str, body: &str, patience: Duration) -> Result<String, CallError> {
    let deadline = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, patience.max(Duration::from_millis(1)))
        .map_err(|source| CallError::Connect { address, source })?;
    let answer = exchange(&mut stream, address, method, path, body, deadline).map_err(|source| CallError::Talk {
        address,
        request: format!("{method} {path}"),
        source,
    })?;
    judge(address, &answer)
}

fn exchange(
    stream: &mut TcpStream,
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while (answer.len() as u64) < ANSWER_BYTES_MAX {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn judge(address: SocketAddr, answer: &[u8]) -> Result<String, CallError> {
    let not_a_db = |problem: String| CallError::NotADb { address, problem };
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let body_at = match head.parse(answer) {
        Ok(httparse::Status::Complete(body_at)) => body_at,
        Ok(httparse::Status::Partial) => {
            return Err(not_a_db("its answer ends too early".into()));
        }
        Err(problem) => return Err(not_a_db(format!("its answer is not HTTP ({problem})"))),
    };
    let status = head.code.unwrap_or(0);
    let body = String::from_utf8_lossy(&answer[body_at..]).trim().to_owned();
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let said: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    let reason = said.as_ref().and_then(|said| said["error"].as_str());
    Err(CallError::Refused {
        address,
        status,
        reason: reason.unwrap_or(&body).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn nobody_there_is_said_with_the_address() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = promote(address, 1, PATIENCE).unwrap_err();
        assert!(matches!(error, CallError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[test]
    fn one_that_never_answers_is_left_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let error = demote(listener.local_addr().unwrap(), PATIENCE).unwrap_err();
        assert!(matches!(error, CallError::Talk { .. }), "{error:?}");
        assert!(begun.elapsed() < PATIENCE * 10);
    }

    #[test]
    fn something_else_is_told_from_a_db() {
        let error = answered_with("SSH-2.0-OpenSSH_9.2\r\n\r\n");
        assert!(matches!(error, CallError::NotADb { .. }), "{error:?}");
    }

    #[test]
    fn the_reason_of_a_refusal_is_passed_on() {
        let error = answered_with("HTTP/1.1 409 Conflict\r\n\r\n{\"error\":\"epoch 3 was seen\"}\n");
        assert!(error.to_string().contains("epoch 3 was seen"), "{error}");
    }

    #[test]
    fn an_address_without_a_port_is_refused_before_any_call() {
        let address = "127.0.0.1:1".parse().unwrap();
        let error = follow(address, "localhost", PATIENCE).unwrap_err();
        assert!(matches!(error, CallError::Address { .. }), "{error:?}");
    }

    fn answered_with(answer: &'static str) -> CallError {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let error = ready(address, Duration::from_secs(5)).unwrap_err();
        server.join().unwrap();
        error
    }
}
