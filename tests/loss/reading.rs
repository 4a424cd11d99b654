//! A lease-hold that is not told of renewals.

use super::*;

/// Once it reads of renewals, nobody tells of them.
#[test]
fn what_reads_of_renewals_lives_on_and_looks_at_its_lease_at_each_of_them() {
    let storage = Storage::new(2);
    let (a, join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&storage.resource(1)]);
    let other = a.holding(&[&storage.resource(2)]);
    // Longer than a lease lasts that is not renewed.
    for _ in 0..6 {
        a.wait_for_renewal();
    }
    assert_eq!((hold.code(), other.code()), (None, None));
    let taken = stolen(&storage);
    lost(&hold.finish_within(AT_ONCE), "LS:R1 is owned by another");
    assert_eq!(storage.leader(1), taken);
    assert_eq!((join.code(), other.code()), (None, None));
}
