//go:build wasip1

// Package abi speaks the component model's canonical ABI: what crosses the border of the component is laid out by hand here.
package abi

import (
	"math"
	"strings"
	"time"
	"unsafe"

	"tidegate/plugin"
)

// held keeps what the gateway reads, and what it wrote, from the garbage collector. An instance lives for one event.
var held []any

//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uint32) uint32 {
	if size == 0 {
		return align
	}
	// Words: they are aligned for all that crosses.
	words := make([]uint64, (size+7)/8)
	held = append(held, words)
	to := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size)
	if oldSize > 0 {
		copy(to, list[byte](old, oldSize))
	}
	return uint32(uintptr(unsafe.Pointer(&words[0])))
}

// list is what the gateway laid down at an address.
func list[T any](address, length uint32) []T {
	if length == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(uintptr(address))), length)
}

func text(address, length uint32) string {
	return unsafe.String(unsafe.SliceData(list[byte](address, length)), length)
}

// Pair is the address and the length of a list.
type Pair struct{ Address, Length uint32 }

func (pair Pair) bytes() []byte {
	bytes := list[byte](pair.Address, pair.Length)
	return bytes[:len(bytes):len(bytes)]
}

func (pair Pair) text() string { return text(pair.Address, pair.Length) }

func lower[T any](values []T) Pair {
	if len(values) == 0 {
		return Pair{}
	}
	held = append(held, values)
	return Pair{uint32(uintptr(unsafe.Pointer(&values[0]))), uint32(len(values))}
}

func lowerText(text string) Pair {
	return lower([]byte(strings.ToValidUTF8(text, "\ufffd")))
}

// Address is where the gateway finds an answer.
func Address[T any](answer *T) uint32 {
	held = append(held, answer)
	return uint32(uintptr(unsafe.Pointer(answer)))
}

type headerRecord struct{ name, value Pair }

func (pair Pair) headers() []plugin.Header {
	var headers []plugin.Header
	for _, header := range list[headerRecord](pair.Address, pair.Length) {
		headers = append(headers, plugin.Header{Name: header.name.text(), Value: header.value.bytes()})
	}
	return headers
}

func (pair Pair) attributes() []plugin.Attribute {
	var attributes []plugin.Attribute
	for _, attribute := range list[headerRecord](pair.Address, pair.Length) {
		attributes = append(attributes, plugin.Attribute{Name: attribute.name.text(), Value: attribute.value.text()})
	}
	return attributes
}

func request(method, path Pair, hasQuery uint32, query, headers, body Pair) plugin.Request {
	request := plugin.Request{Method: method.text(), Path: path.text(), Headers: headers.headers(), Body: body.bytes()}
	if hasQuery&0xff != 0 {
		text := query.text()
		request.Query = &text
	}
	return request
}

func moment(milliseconds uint64) time.Time {
	return time.UnixMilli(int64(milliseconds)).UTC()
}

// Event is made of the parts in which the gateway hands it over.
func Event(id Pair, acceptedAt uint64, method, path Pair, hasQuery uint32, query, headers, body, attributes Pair) *plugin.Event {
	return &plugin.Event{
		ID:         id.text(),
		AcceptedAt: moment(acceptedAt),
		Request:    request(method, path, hasQuery, query, headers, body),
		Attributes: attributes.attributes(),
	}
}

type optional struct {
	some  uint32
	value Pair
}

func optionalText(text *string) optional {
	if text == nil {
		return optional{}
	}
	return optional{1, lowerText(*text)}
}

type changeRecord struct {
	kind        uint32
	name, value Pair
}

type outputRecord struct {
	method, path optional
	query        optional
	headers      Pair
	body         optional
	attributes   Pair
}

func lowerOutput(changes plugin.Changes) outputRecord {
	record := outputRecord{
		method: optionalText(changes.Method),
		path:   optionalText(changes.Path),
		query:  optional{uint32(changes.Query), lowerText(changes.NewQuery)},
	}
	headers := make([]changeRecord, len(changes.Headers))
	for i, change := range changes.Headers {
		headers[i] = changeRecord{uint32(change.Kind), lowerText(change.Name), lower([]byte(change.Value))}
	}
	record.headers = lower(headers)
	if changes.Body != nil {
		record.body = optional{1, lower(changes.Body)}
	}
	return record
}

// Answer is the WIT's result: what it holds begins with the outputs, or with whether the event is kept, or with the failure's code.
type Answer struct {
	failed  uint32
	first   Pair
	message Pair
	retry   uint32
}

// Kept answers for a filter.
func Kept(kept bool, failure *plugin.Failure) uint32 {
	if failure != nil {
		return failed(failure)
	}
	answer := &Answer{}
	if kept {
		answer.first.Address = 1
	}
	return Address(answer)
}

// Outputs answers for a transform.
func Outputs(outputs []plugin.Changes, failure *plugin.Failure) uint32 {
	if failure != nil {
		return failed(failure)
	}
	records := make([]outputRecord, len(outputs))
	for i, output := range outputs {
		records[i] = lowerOutput(output)
	}
	return Address(&Answer{first: lower(records)})
}

func failed(failure *plugin.Failure) uint32 {
	return Address(&Answer{1, lowerText(failure.Code), lowerText(failure.Message), uint32(failure.Retry)})
}

// Gateway is the gateway that this instance runs in.
type Gateway struct{}

//go:wasmimport tidegate:plugin/log@1.1.0 write
func logWrite(level, address, length uint32)

//go:wasmimport tidegate:plugin/config@1.1.0 get
func configGet(answer uint32)

//go:wasmimport tidegate:plugin/secret@1.1.0 get
func secretGet(address, length, answer uint32)

//go:wasmimport tidegate:plugin/clock@1.1.0 now
func clockNow() uint64

//go:wasmimport tidegate:plugin/random@1.1.0 bytes
func randomBytes(length, answer uint32)

//go:wasmimport tidegate:plugin/random@1.1.0 number
func randomNumber() uint64

//go:wasmimport tidegate:plugin/hmac@1.1.0 sign
func hmacSign(algorithm, name, nameLength, message, messageLength, answer uint32)

// Log is described in [plugin.Host], as are the others.
func (Gateway) Log(level plugin.Level, message string) {
	line := lowerText(message)
	logWrite(uint32(level), line.Address, line.Length)
}

// ConfigText asks the gateway.
func (Gateway) ConfigText() string {
	answer := new(Pair)
	configGet(Address(answer))
	return answer.text()
}

// Secret asks the gateway.
func (Gateway) Secret(name string) ([]byte, bool) {
	answer, key := new(optional), lowerText(name)
	secretGet(key.Address, key.Length, Address(answer))
	return answer.value.bytes(), answer.some&0xff != 0
}

// Now asks the gateway.
func (Gateway) Now() time.Time {
	return moment(clockNow())
}

// RandomBytes asks the gateway.
func (Gateway) RandomBytes(length int) []byte {
	answer := new(Pair)
	randomBytes(uint32(min(max(length, 0), math.MaxInt32)), Address(answer))
	return answer.bytes()
}

// RandomNumber asks the gateway.
func (Gateway) RandomNumber() uint64 { return randomNumber() }

// HMAC asks the gateway.
func (Gateway) HMAC(algorithm plugin.Algorithm, secretName string, message []byte) ([]byte, bool) {
	answer, name, signed := new(optional), lowerText(secretName), lower(message)
	hmacSign(uint32(algorithm), name.Address, name.Length, signed.Address, signed.Length, Address(answer))
	return answer.value.bytes(), answer.some&0xff != 0
}
