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
	// Now is when the event was accepted. So is time.Now.
	Now() time.Time
	// RandomBytes are seeded from the event's id. At most 4,096 a call. Not fit for keys.
	RandomBytes(length int) []byte
	// RandomNumber is seeded from the event's id.
	RandomNumber() uint64
	// HMAC is the raw keyed hash of message under a secret of the connection; none if it names no such secret.
	HMAC(algorithm Algorithm, secretName string, message []byte) (tag []byte, found bool)
}

// Config reads the plugin's configuration into what value points to. Its error is the failure bad-config, which no retry can help.
func Config(host Host, value any) error {
	if err := json.Unmarshal([]byte(host.ConfigText()), value); err != nil {
		return Never("bad-config", fmt.Sprintf("the plugin's configuration: %v", err))
	}
	return nil
}
