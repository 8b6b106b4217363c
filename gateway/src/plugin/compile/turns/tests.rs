use super::*;

const NOISY: TenantId = TenantId(1);
const QUIET: TenantId = TenantId(2);
const ROOM: Size = Size { at_once: 2, uploads: 1000, bytes: 1 << 20, total_bytes: 1 << 20 };

fn version(number: u8) -> VersionHash {
    VersionHash([number; 32])
}

type Stood<'a> = (Turn<'a>, oneshot::Receiver<()>);

fn stand(turns: &Turns, tenant: TenantId, number: u8) -> Stood<'_> {
    turns.stand(tenant, version(number))
}

fn has_turn(stood: &mut Stood<'_>) -> bool {
    stood.1.try_recv().is_ok()
}

#[test]
fn one_tenant_never_has_all_compilers_and_its_queue_delays_nobody_else() {
    let turns = Turns::new(ROOM);
    let mut noisy: Vec<_> = (0..50).map(|number| stand(&turns, NOISY, number)).collect();
    assert!(has_turn(&mut noisy[0]));
    assert!(!has_turn(&mut noisy[1]), "the last compiler is for somebody else");
    let mut quiet = stand(&turns, QUIET, 100);
    assert!(has_turn(&mut quiet), "at once, past 49 that came before");
    drop(quiet);
    assert!(!has_turn(&mut noisy[1]));
    noisy.remove(0);
    assert!(has_turn(&mut noisy[0]), "in the order of arrival within a tenant");
}

#[test]
fn with_one_compiler_tenants_take_turns_by_what_they_used() {
    let turns = Turns::new(Size { at_once: 1, ..ROOM });
    let mut noisy: Vec<_> = (0..10).map(|number| stand(&turns, NOISY, number)).collect();
    let mut quiet: Vec<_> = (100..103).map(|number| stand(&turns, QUIET, number)).collect();
    let mut order = Vec::new();
    while noisy.len() + quiet.len() > 0 {
        for (tenant, queue) in [(NOISY, &mut noisy), (QUIET, &mut quiet)] {
            if queue.first_mut().is_some_and(has_turn) {
                order.push(tenant);
                // Its end gives the next turn.
                queue.remove(0);
                break;
            }
        }
    }
    let last_quiet = order.iter().rposition(|tenant| *tenant == QUIET).expect("it had its turns");
    assert!(last_quiet <= 6, "three of the quiet one's are done after seven turns: {order:?}");
    assert_eq!(order.len(), 13);
}

#[test]
fn who_wants_the_same_version_has_it_at_the_first_turn_of_any() {
    let turns = Turns::new(Size { at_once: 1, ..ROOM });
    let first = stand(&turns, NOISY, 0);
    let mut behind = stand(&turns, NOISY, 1);
    let mut shared = stand(&turns, NOISY, 2);
    turns.join(QUIET, version(2));
    turns.join(QUIET, version(2));
    drop(first);
    assert!(has_turn(&mut shared), "by the quiet tenant's turn");
    assert!(!has_turn(&mut behind));
}

#[test]
fn who_leaves_the_line_or_drops_a_turn_frees_it() {
    let turns = Turns::new(Size { at_once: 1, ..ROOM });
    let first = stand(&turns, NOISY, 0);
    let waits = stand(&turns, NOISY, 1);
    let mut last = stand(&turns, NOISY, 2);
    drop(waits);
    drop(first);
    assert!(has_turn(&mut last));
    drop(last);
    assert!(turns.line().running.is_empty() && turns.line().waiting.is_empty());
}

#[test]
fn uploads_are_bounded_by_number_and_bytes() {
    let turns = Turns::new(Size { at_once: 1, uploads: 2, bytes: 100, total_bytes: 150 });
    let refused = |tenant, bytes| match turns.admit(tenant, bytes) {
        Err(LoadError::QueueFull { limit, .. }) => limit,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("taken"),
    };
    let first = turns.admit(NOISY, 60).unwrap();
    assert_eq!(refused(NOISY, 50), "bytes of this tenant's uploads");
    let _second = turns.admit(NOISY, 40).unwrap();
    assert_eq!(refused(NOISY, 0), "uploads of this tenant");
    assert_eq!(refused(QUIET, 51), "bytes of all tenants' uploads");
    let _quiet = turns.admit(QUIET, 50).unwrap();
    drop(first);
    let _third = turns.admit(NOISY, 60).unwrap();
}

#[test]
fn nothing_is_remembered_once_nobody_waits() {
    let turns = Turns::new(ROOM);
    for tenant in 0..100 {
        let (first, second) = (stand(&turns, TenantId(tenant), 0), stand(&turns, TenantId(tenant), 1));
        drop((first, second));
    }
    assert!(turns.line().used.is_empty());
}
