// Package plugintest has what tests of plugins need: events to feed them, and a host that stands in for the gateway.
package plugintest

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"strings"
	"time"

	"tidegate/plugin"
)

var accepted = time.UnixMilli(1_700_000_000_000).UTC()

const id = "00000000000000000000000000"

// Event is a POST with this body, content-type: application/json, these headers (name, value, name, value), and fixed id and time.
func Event(body string, headers ...string) *plugin.Event {
	return &plugin.Event{ID: "evt_" + id, AcceptedAt: accepted, Request: request("", body, headers)}
}

// Arrival is the same as a request that comes in.
func Arrival(body string, headers ...string) *plugin.Arrival {
	return &plugin.Arrival{ReceivedAt: accepted, Request: request("", body, headers)}
}

// Attempt is a first attempt to deliver the same to https://api.example.com/hook.
func Attempt(body string, headers ...string) *plugin.Attempt {
	return &plugin.Attempt{
		DeliveryID: "dlv_" + id, EventID: "evt_" + id, Number: 1, StartedAt: accepted, Origin: "https://api.example.com",
		Request: request("/hook", body, headers),
	}
}

func request(path, body string, headers []string) plugin.Request {
	request := plugin.Request{Method: "POST", Path: path, Body: []byte(body)}
	headers = append([]string{"content-type", "application/json"}, headers...)
	for i := 0; i+1 < len(headers); i += 2 {
		line := plugin.Header{Name: strings.ToLower(headers[i]), Value: []byte(headers[i+1])}
		request.Headers = append(request.Headers, line)
	}
	return request
}

// Line is one of the log.
type Line struct {
	Level   plugin.Level
	Message string
}

// Host stands in for the gateway. Its random bytes count up from one; its hashes are real.
type Host struct {
	// Config is a JSON text; empty for {}.
	Config string
	// Secrets may be read and signed with, those in Signing only signed with.
	Secrets, Signing map[string]string
	// Logs are what the plugin logged.
	Logs []Line
	// Table is the plugin's table. Nothing in it goes by its time to live.
	Table map[string]Entry
	// TableBytes is how much it may take: bytes of keys and values, and 128 for each entry; 0 for any.
	TableBytes int

	drawn int
}

// Log keeps the line.
func (host *Host) Log(level plugin.Level, message string) {
	host.Logs = append(host.Logs, Line{level, message})
}

// ConfigText is what was configured.
func (host *Host) ConfigText() string {
	if host.Config == "" {
		return "{}"
	}
	return host.Config
}

// Secret gives what was set.
func (host *Host) Secret(name string) ([]byte, bool) {
	value, found := host.Secrets[name]
	return []byte(value), found
}

// Now is the time of [Event].
func (host *Host) Now() time.Time { return accepted }

// RandomBytes counts up.
func (host *Host) RandomBytes(length int) []byte {
	bytes := make([]byte, length)
	for i := range bytes {
		host.drawn++
		bytes[i] = byte(host.drawn)
	}
	return bytes
}

// RandomNumber counts up.
func (host *Host) RandomNumber() uint64 {
	return binary.BigEndian.Uint64(host.RandomBytes(8))
}

// HMAC signs.
func (host *Host) HMAC(algorithm plugin.Algorithm, secretName string, message []byte) ([]byte, bool) {
	key, found := host.Secrets[secretName]
	if !found {
		key, found = host.Signing[secretName]
	}
	if !found {
		return nil, false
	}
	made := hmac.New([]func() hash.Hash{sha1.New, sha256.New, sha512.New}[algorithm], []byte(key))
	made.Write(message)
	return made.Sum(nil), true
}

// HMACVerify compares.
func (host *Host) HMACVerify(algorithm plugin.Algorithm, secretName string, message, tag []byte) (bool, bool) {
	expected, found := host.HMAC(algorithm, secretName, message)
	return found && hmac.Equal(expected, tag), found
}

// KV is the table.
func (host *Host) KV() plugin.KV { return table{host} }
