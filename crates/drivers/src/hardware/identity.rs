//! What tells machines apart: names that firmware, hypervisor and installation give.

use super::read;
use std::path::Path;

/// Words that makers leave where a number should be.
const BLANKS: [&str; 12] = [
    "none",
    "not specified",
    "not settable",
    "not applicable",
    "not available",
    "default string",
    "system serial number",
    "chassis serial number",
    "to be filled by o.e.m.",
    "n/a",
    "unknown",
    "empty",
];
/// UUIDs that many boards share.
const SHARED_UUIDS: [&str; 3] = [
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "feefeefe-efee-fefe-efee-feefeefeefee",
];
/// Whoever makes machines that are none: the enclosure of such a one is made up, and the same for all.
const VIRTUAL: [&str; 13] = [
    "qemu",
    "kvm",
    "vmware",
    "microsoft corporation",
    "xen",
    "amazon ec2",
    "google",
    "innotek",
    "oracle",
    "parallels",
    "openstack",
    "bochs",
    "digitalocean",
];
/// A record of Hyper-V: a key and a value, each filled up with zeros.
const KVP: (usize, usize) = (512, 2_048);

/// `/etc/machine-id`: made once when the system was installed.
pub(super) fn machine_id(etc: &Path) -> Option<String> {
    let id = read(&etc.join("machine-id"))?.trim().to_ascii_lowercase();
    let is_one = id.len() == 32 && id.chars().all(|digit| digit.is_ascii_hexdigit());
    (is_one && !id.trim_start_matches('0').is_empty()).then_some(id)
}

/// The UUID that the firmware gives. Only root may read it.
pub(super) fn product(sys: &Path) -> Option<String> {
    let uuid = dmi(sys, "product_uuid")?.to_ascii_lowercase();
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let is_one = digits.len() == 32 && digits.iter().any(|digit| *digit != digits[0]);
    (is_one && !SHARED_UUIDS.contains(&uuid.as_str())).then_some(uuid)
}

/// The enclosure of a physical machine: of several blades it is one.
pub(super) fn chassis(sys: &Path) -> Option<String> {
    let vendor = dmi(sys, "sys_vendor")?;
    let own = format!("{vendor} {}", dmi(sys, "product_name").unwrap_or_default()).to_ascii_lowercase();
    if VIRTUAL.iter().any(|maker| own.contains(maker)) {
        return None;
    }
    let serial = dmi(sys, "chassis_serial")?;
    let is_number = serial.chars().any(|sign| sign.is_ascii_digit() && sign != '0');
    is_number.then(|| format!("{vendor} {serial}"))
}

/// The physical host of a virtual machine: Hyper-V tells its guests.
pub(super) fn host(lib: &Path) -> Option<String> {
    let pool = std::fs::read(lib.join("hyperv/.kvp_pool_3")).ok()?;
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
    };
    let name =
        |record: &[u8]| (text(&record[..KVP.0]) == "PhysicalHostNameFullyQualified").then(|| text(&record[KVP.0..]));
    let name = pool.chunks_exact(KVP.0 + KVP.1).find_map(name)?;
    (!name.is_empty()).then_some(name)
}

fn dmi(sys: &Path, file: &str) -> Option<String> {
    let text = read(&sys.join("class/dmi/id").join(file))?.trim().to_owned();
    (!BLANKS.contains(&text.to_ascii_lowercase().as_str())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{chassis, host, machine_id, product};
    use std::path::Path;

    fn dmi(files: &[(&str, &str)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("class/dmi/id");
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join(file), text).unwrap();
        }
        sys
    }

    #[test]
    fn blades_have_an_enclosure_and_virtual_machines_have_none() {
        let of = |vendor, name, serial| {
            let sys = dmi(&[
                ("sys_vendor", vendor),
                ("product_name", name),
                ("chassis_serial", serial),
            ]);
            chassis(sys.path())
        };
        assert_eq!(
            of("Dell Inc.\n", "PowerEdge M640\n", "CN7792\n").as_deref(),
            Some("Dell Inc. CN7792")
        );
        // All of Azure has this number.
        let azure = "7783-7084-3265-9085-8269-3286-77\n";
        assert_eq!(of("Microsoft Corporation\n", "Virtual Machine\n", azure), None);
        assert_eq!(of("Red Hat\n", "KVM\n", "1234\n"), None);
        assert_eq!(of("ASUS\n", "B550\n", "Default string\n"), None);
        assert_eq!(of("ASUS\n", "B550\n", "0000000\n"), None);
    }

    #[test]
    fn a_uuid_that_boards_share_is_none() {
        let of = |uuid| product(dmi(&[("product_uuid", uuid)]).path());
        let own = "4c4c4544-0043-4e10-8037-b7c04f393232";
        assert_eq!(of("4C4C4544-0043-4E10-8037-B7C04F393232\n").as_deref(), Some(own));
        for shared in [
            "03000200-0400-0500-0006-000700080009",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "00000000-0000-0000-0000-000000000000",
            "Not Settable",
            "",
        ] {
            assert_eq!(of(shared), None, "{shared}");
        }
    }

    #[test]
    fn an_installation_has_an_id_once_it_has_begun() {
        let etc = tempfile::tempdir().unwrap();
        for (text, is_one) in [
            ("3d1219c7c4c5404aaa1f6d2a48adfda4\n", true),
            ("uninitialized\n", false),
            ("00000000000000000000000000000000\n", false),
        ] {
            std::fs::write(etc.path().join("machine-id"), text).unwrap();
            assert_eq!(machine_id(etc.path()).is_some(), is_one, "{text}");
        }
        assert_eq!(machine_id(Path::new("/nowhere")), None);
    }

    #[test]
    fn hyper_v_tells_the_host() {
        let lib = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(lib.path().join("hyperv")).unwrap();
        let mut pool = Vec::new();
        for (key, value) in [("HostName", "hv"), ("PhysicalHostNameFullyQualified", "hv7.example")] {
            for (text, width) in [(key, 512), (value, 2_048)] {
                let mut field = text.as_bytes().to_vec();
                field.resize(width, 0);
                pool.extend(field);
            }
        }
        let path = lib.path().join("hyperv/.kvp_pool_3");
        std::fs::write(&path, &pool).unwrap();
        assert_eq!(host(lib.path()).as_deref(), Some("hv7.example"));
        std::fs::write(&path, &pool[..700]).unwrap();
        assert_eq!(host(lib.path()), None, "half a record");
    }
}
