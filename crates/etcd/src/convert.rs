//! Our transactions and entries as etcd's messages, and back.

use crate::keys::Prefix;
use crate::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::request_op::Request;
use crate::pb::response_op::Response;
use crate::pb::{
    self, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    mvccpb::{Event, KeyValue, event::EventType},
};
use model::Revision;
use store::{Change, Changes, Compare, Entry, Op, Txn, TxnResult};

pub(crate) fn txn_of(prefix: &Prefix, txn: &Txn) -> TxnRequest {
    let ops = |ops: &[Op]| ops.iter().map(|op| op_of(prefix, op)).collect();
    TxnRequest {
        compare: txn.compares.iter().map(|compare| compare_of(prefix, compare)).collect(),
        success: ops(&txn.then),
        failure: ops(&txn.otherwise),
    }
}

fn compare_of(prefix: &Prefix, compare: &Compare) -> pb::Compare {
    let (target, union) = match compare {
        Compare::Create { is, .. } => (CompareTarget::Create, TargetUnion::CreateRevision(number(*is))),
        Compare::Modified { is, .. } => (CompareTarget::Mod, TargetUnion::ModRevision(number(*is))),
        Compare::Value { is, .. } => (CompareTarget::Value, TargetUnion::Value(is.clone())),
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: prefix.key(compare.key()),
        target_union: Some(union),
    }
}

fn op_of(prefix: &Prefix, op: &Op) -> RequestOp {
    let key = prefix.key(op.key());
    let request = match op {
        Op::Put { value, .. } => Request::RequestPut(PutRequest {
            key,
            value: value.clone(),
        }),
        Op::Delete { .. } => Request::RequestDeleteRange(DeleteRangeRequest { key }),
        Op::Get { .. } => Request::RequestRange(RangeRequest {
            key,
            ..RangeRequest::default()
        }),
    };
    RequestOp { request: Some(request) }
}

pub(crate) fn result_of(prefix: &Prefix, answer: TxnResponse) -> TxnResult {
    let read = |op: pb::ResponseOp| match op.response {
        Some(Response::ResponseRange(range)) => Some(range.kvs.into_iter().find_map(|kv| entry_of(prefix, kv))),
        _ => None,
    };
    TxnResult {
        succeeded: answer.succeeded,
        revision: revision(answer.header.unwrap_or_default().revision),
        reads: answer.responses.into_iter().filter_map(read).collect(),
    }
}

/// The entry that `kv` is, unless its key is not of ours: nothing here writes keys that are not text.
pub(crate) fn entry_of(prefix: &Prefix, kv: KeyValue) -> Option<Entry> {
    Some(Entry {
        key: prefix.strip(&kv.key)?,
        value: kv.value,
        create: revision(kv.create_revision),
        modified: revision(kv.mod_revision),
        version: u64::try_from(kv.version).unwrap_or(0),
    })
}

/// The changes that `events` are, by revision, without those before `from`.
pub(crate) fn changes_of(prefix: &Prefix, events: Vec<Event>, from: u64) -> Vec<Changes> {
    let mut all: Vec<Changes> = Vec::new();
    for event in events {
        let put = event.r#type() == EventType::Put;
        let Some(kv) = event.kv else { continue };
        let revision = revision(kv.mod_revision);
        if revision.0 < from {
            continue;
        }
        let change = match put {
            true => entry_of(prefix, kv).map(Change::Put),
            false => prefix.strip(&kv.key).map(|key| Change::Delete { key }),
        };
        let Some(change) = change else { continue };
        match all.last_mut() {
            Some(last) if last.revision == revision => last.changes.push(change),
            _ => all.push(Changes {
                revision,
                changes: vec![change],
            }),
        }
    }
    all
}

/// etcd counts in signed numbers; nothing is ever at its highest.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventType, key: &str, at: i64) -> Event {
        Event {
            r#type: kind.into(),
            kv: Some(KeyValue {
                key: key.into(),
                mod_revision: at,
                ..KeyValue::default()
            }),
        }
    }

    #[test]
    fn events_are_told_by_revision_and_old_ones_dropped() {
        let events = vec![
            event(EventType::Put, "p/a", 4),
            event(EventType::Put, "p/a", 5),
            event(EventType::Delete, "p/b", 5),
            event(EventType::Put, "q/other", 5),
            event(EventType::Delete, "p/a", 7),
        ];
        let told = changes_of(&Prefix::new("p/"), events, 5);
        let summary: Vec<_> = told
            .iter()
            .map(|changes| {
                (
                    changes.revision.0,
                    changes.changes.iter().map(Change::key).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(summary, [(5, vec!["a", "b"]), (7, vec!["a"])]);
        assert!(matches!(told[0].changes[1], Change::Delete { .. }));
    }

    #[test]
    fn an_event_without_a_key_or_with_one_that_is_no_text_is_left_out() {
        let mut broken = event(EventType::Put, "p/", 5);
        broken.kv.as_mut().unwrap().key = vec![b'p', b'/', 0xff];
        let empty = Event { r#type: 9, kv: None };
        assert!(changes_of(&Prefix::new("p/"), vec![broken, empty], 0).is_empty());
    }
}
