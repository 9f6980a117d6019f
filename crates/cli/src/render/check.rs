//! What a good file declares.

use super::{Cell, Tone, View, plural, table};
use model::{CheckKind, Cluster, Service};

/// The services at a glance, in the order in which they start.
pub(crate) fn summary(cluster: &Cluster, view: &View) -> String {
    let mut out = format!(
        "{}: cluster `{}`, {}\n",
        view.paint(Tone::Good, "ok"),
        cluster.name,
        plural(cluster.services.len() as u64, "service")
    );
    let heads = ["SERVICE", "ACTIVE", "STANDBY", "NEED", "CLIENTS", "CHECK", "NEEDS", ""];
    let mut rows = vec![heads.map(|head| Cell::new(Tone::Quiet, head)).to_vec()];
    for name in cluster.start_order() {
        let Some(service) = cluster.services.get(name) else {
            continue;
        };
        rows.push(vec![
            Cell::new(Tone::Strong, name.as_str()),
            Cell::plain(service.active.to_string()),
            Cell::plain(service.standby.to_string()),
            Cell::plain(service.need.to_string()),
            Cell::plain(service.listen.map_or_else(|| "-".into(), |listen| listen.to_string())),
            Cell::plain(check(service)),
            Cell::plain(
                service
                    .needs
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            Cell::plain(if service.exclusive { "exclusive" } else { "" }),
        ]);
    }
    for line in table(view, 2, &rows) {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn check(service: &Service) -> String {
    match &service.check {
        None => "-".into(),
        Some(check) => {
            let kind = match &check.kind {
                CheckKind::Tcp => "tcp",
                CheckKind::Http { .. } => "http",
                CheckKind::Grpc { .. } => "grpc",
                CheckKind::Exec { .. } => "exec",
            };
            format!("{kind} every {}", check.every)
        }
    }
}
