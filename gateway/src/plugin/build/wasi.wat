;; What stands in for WASI preview 1 in guests whose language cannot do without: there is nothing but the event's time, its random numbers,
;; and a log to write to. What a guest asks at its start is answered with nothing; what would have to wait or to end the process traps.
(module
  (import "env" "memory" (memory 0))
  (import "tidegate:plugin/clock@1.1.0" "now" (func $now (result i64)))
  (import "tidegate:plugin/random@1.1.0" "number" (func $number (result i64)))
  (import "tidegate:plugin/log@1.1.0" "write" (func $write (param i32 i32 i32)))

  (func $nothing_of_two (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    (i32.const 0))
  (func $done_with_two (param i32 i32) (result i32) (i32.const 0))
  (export "args_sizes_get" (func $nothing_of_two))
  (export "environ_sizes_get" (func $nothing_of_two))
  (export "args_get" (func $done_with_two))
  (export "environ_get" (func $done_with_two))
  (export "fd_fdstat_set_flags" (func $done_with_two))

  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "fd_close") (param i32) (result i32) (i32.const 0))

  ;; Asked once, at the start: a garbage collector looks at the clock whenever it likes, and while the gateway hands something over a guest
  ;; may not ask it anything. Milliseconds become nanoseconds. Clocks other than that of the day are one ahead: Go's runtime takes a clock
  ;; at zero for a broken one.
  (global $asked (mut i64) (i64.const 0))
  (global $time (mut i64) (i64.const 0))
  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $at i32) (result i32)
    (if (i64.eqz (global.get $asked))
      (then
        (global.set $asked (i64.const 1))
        (global.set $time (i64.mul (call $now) (i64.const 1000000)))))
    (i64.store (local.get $at) (i64.add (global.get $time) (i64.extend_i32_u (i32.ne (local.get $clock) (i32.const 0)))))
    (i32.const 0))

  (func (export "random_get") (param $at i32) (param $length i32) (result i32)
    (local $number i64)
    (block $filled
      (loop $next
        (br_if $filled (i32.eqz (local.get $length)))
        (if (i64.eqz (local.get $number)) (then (local.set $number (call $number))))
        (i32.store8 (local.get $at) (i32.wrap_i64 (local.get $number)))
        (local.set $number (i64.shr_u (local.get $number) (i64.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Each piece is a line of the log: of level error for the second stream, info for all others.
  (func (export "fd_write") (param $fd i32) (param $pieces i32) (param $count i32) (param $written i32) (result i32)
    (local $total i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (call $write
          (select (i32.const 3) (i32.const 1) (i32.eq (local.get $fd) (i32.const 2)))
          (i32.load (local.get $pieces))
          (i32.load offset=4 (local.get $pieces)))
        (local.set $total (i32.add (local.get $total) (i32.load offset=4 (local.get $pieces))))
        (local.set $pieces (i32.add (local.get $pieces) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $written) (local.get $total))
    (i32.const 0))

  ;; At their end: nothing to read.
  (func (export "fd_read") (param $fd i32) (param $pieces i32) (param $count i32) (param $read i32) (result i32)
    (i32.store (local.get $read) (i32.const 0))
    (i32.const 0))

  ;; 8: no such descriptor.
  (func $no_such_descriptor (param i32 i32) (result i32) (i32.const 8))
  (export "fd_fdstat_get" (func $no_such_descriptor))
  (export "fd_prestat_get" (func $no_such_descriptor))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))

  (func (export "poll_oneoff") (param i32 i32 i32 i32) (result i32) (unreachable))
  (func (export "proc_exit") (param i32) (unreachable)))
