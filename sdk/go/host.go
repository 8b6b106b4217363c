package plugin

import (
	"encoding/json"
	"fmt"
	"time"
)

// Level is how much a line of the log matters.
type Level uint8

const (
	// Debug and the others are the levels of the log.
	Debug Level = iota
	Info
	Warn
	Error
)

// Algorithm is that of a keyed hash.
type Algorithm uint8

const (
	// SHA1 and the others are what HMAC is offered with.
	SHA1 Algorithm = iota
	SHA256
	SHA512
)

// Host is what a plugin may ask of the gateway. In tests, [tidegate/plugin/plugintest] takes the gateway's place.
type Host interface {
	// Log writes a line in the run's record. Control characters are removed; lines and bytes are capped.
	Log(level Level, message string)
	// ConfigText is the plugin's configuration on this connection, a JSON text; {} if there is none.
	ConfigText() string
	// Secret is one that the connection hands to this plugin; none if it names no such secret or keeps it for signing alone.
	Secret(name string) (value []byte, found bool)
	// Now is when the event was accepted, the request came in ([Verify], [Respond]) or the attempt began ([Sign], [Judge]). So is time.Now.
	Now() time.Time
	// RandomBytes are seeded from the event's id. At most 4,096 a call. Not fit for keys.
	RandomBytes(length int) []byte
	// RandomNumber is seeded from the event's id.
	RandomNumber() uint64
	// HMAC is the raw keyed hash of message under a secret of the connection; none if it names no such secret.
	HMAC(algorithm Algorithm, secretName string, message []byte) (tag []byte, found bool)
	// HMACVerify says whether tag is that hash, compared in a time that does not tell where they differ; found is false if the connection
	// names no such secret.
	HMACVerify(algorithm Algorithm, secretName string, message, tag []byte) (right, found bool)
	// KV is the plugin's table.
	KV() KV
}

// KV is the plugin's table, which outlives the event and is shared by all its connections and versions. For [Filter] and [Transform].
//
// Changes are made at once, and once for each event, however often it is planned. Asking for what is not at hand makes the gateway stop the
// plugin and run it again from the start with the answer, without deferred functions: ask first, work afterwards.
//
// A key is 1 to 256 bytes of UTF-8 without control characters, a value at most 64 KiB. Entries are kept for ttl, rounded up to seconds, or
// for good if it is 0. The errors are [ErrQuotaExceeded], [ErrNotANumber], [ErrTooLarge] and [ErrNoTable].
type KV interface {
	// Get gives an entry's value, and whether there is one.
	Get(key string) (value []byte, found bool, err error)
	// Set makes or replaces an entry.
	Set(key string, value []byte, ttl time.Duration) error
	// Add makes an entry unless there is one, and says whether it did.
	Add(key string, value []byte, ttl time.Duration) (added bool, err error)
	// Delete takes an entry away, and says whether there was one.
	Delete(key string) (deleted bool, err error)
	// Increment adds to a number, and gives the sum. One that does not exist counts as zero and is made, with the time to live; that of one
	// that exists stays. The value is the number as decimal text.
	Increment(key string, by int64, ttl time.Duration) (sum int64, err error)
}

// Why the table did not do what it was asked. Each is a failure that a plugin may return as it is.
var (
	// ErrQuotaExceeded: the tenant's tables have no room left. A later try may find some.
	ErrQuotaExceeded = Later("kv-quota-exceeded", "the tenant's tables are full")
	// ErrNotANumber: Increment of what is no number, or out of 64 bits.
	ErrNotANumber = Never("kv-not-a-number", "the entry to add to is not a number")
	// ErrTooLarge: a key or a value that is not as it must be.
	ErrTooLarge = Never("kv-too-large", "the key or the value is too large for the table")
	// ErrNoTable: there is none where sources and destinations are served.
	ErrNoTable = Never("kv-no-table", "there is no table here")
)

// Config reads the plugin's configuration into what value points to. Its error is the failure bad-config, which no retry can help.
func Config(host Host, value any) error {
	if err := json.Unmarshal([]byte(host.ConfigText()), value); err != nil {
		return Never("bad-config", fmt.Sprintf("the plugin's configuration: %v", err))
	}
	return nil
}
