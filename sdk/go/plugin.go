// Package plugin has what Tidegate plugins in Go are written with.
//
// A plugin is a main package that exports functions: for connections with [tidegate/plugin/filter] and [tidegate/plugin/transform], for
// sources with [tidegate/plugin/verify] and [tidegate/plugin/respond], for destinations with [tidegate/plugin/sign] and
// [tidegate/plugin/judge].
//
//	func init() { transform.Export(announce) }
//
//	func announce(event *plugin.Event, host plugin.Host) ([]*plugin.Output, error) { ... }
//
//	func main() {}
//
// Every event gets a fresh instance: nothing that a plugin leaves in memory reaches the next event. What is to be remembered goes into the
// plugin's table, see [KV].
package plugin

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Header is one header line.
type Header struct {
	// Name is in lower case.
	Name string
	// Value is the raw bytes of the field value.
	Value []byte
}

// Attribute is a name and a value that the records of this version have no field for.
type Attribute struct {
	Name, Value string
}

// Request is a request, byte for byte.
type Request struct {
	// Method is as sent: POST.
	Method string
	// Path is below the source, with its leading slash, or empty.
	Path string
	// Query is raw, without the question mark; nil if the request had none.
	Query *string
	// Headers are in the order in which they came, repeated ones repeated.
	Headers []Header
	Body    []byte
}

// Event is one accepted event.
type Event struct {
	// ID is evt_ and 26 characters: the same on every retry and replay.
	ID string
	// AcceptedAt is when the gateway accepted it, to the millisecond.
	AcceptedAt time.Time
	Request    Request
	// Attributes are empty up to version 1.1. Ignore names that you do not know.
	Attributes []Attribute
}

// HeaderValues gives every value of a header, in order; the name's case does not matter.
func (request *Request) HeaderValues(name string) [][]byte {
	return headerValues(request.Headers, name)
}

// Header gives the first value of a header, if it is UTF-8, and whether there is one; the name's case does not matter.
func (request *Request) Header(name string) (string, bool) {
	return firstHeader(request.Headers, name)
}

// JSON reads the body into what value points to. Its error is the failure not-json, which no retry can help.
func (request *Request) JSON(value any) error {
	return readJSON(request.Body, value)
}

func headerValues(headers []Header, name string) [][]byte {
	var values [][]byte
	for _, header := range headers {
		if strings.EqualFold(header.Name, name) {
			values = append(values, header.Value)
		}
	}
	return values
}

func firstHeader(headers []Header, name string) (string, bool) {
	values := headerValues(headers, name)
	if len(values) == 0 || !utf8.Valid(values[0]) {
		return "", false
	}
	return string(values[0]), true
}

func readJSON(body []byte, value any) error {
	if !utf8.Valid(body) {
		return Never("not-json", "the body: not UTF-8")
	}
	if err := json.Unmarshal(body, value); err != nil {
		return Never("not-json", fmt.Sprintf("the body: %v", err))
	}
	return nil
}

// Retry says whether trying the same event again can help.
type Retry uint8

const (
	// RetryNever: the event, the configuration or the code is at fault.
	RetryNever Retry = iota
	// RetryLater: something outside the event is at fault and may be mended.
	RetryLater
)

// Failure is an error that says why a plugin could not decide. Any other error becomes the failure `error`, a panic
// `uncaught-exception`.
type Failure struct {
	// Code is short and stable, for machines: bad-payload.
	Code string
	// Message is one sentence for people, without secrets or bodies.
	Message string
	Retry   Retry
}

// Error is code and message.
func (failure *Failure) Error() string {
	return failure.Code + ": " + failure.Message
}

// Never makes a failure that the same input gives again.
func Never(code, message string) *Failure {
	return &Failure{code, message, RetryNever}
}

// Later makes a failure that a later try may not meet.
func Later(code, message string) *Failure {
	return &Failure{code, message, RetryLater}
}

// HeaderChange is one change to the headers.
type HeaderChange struct {
	Kind HeaderChangeKind
	// Name is empty for Clear.
	Name string
	// Value is that of Set and Append.
	Value string
}

// HeaderChangeKind is what becomes of a header.
type HeaderChangeKind uint8

const (
	// Clear removes every header that came in.
	Clear HeaderChangeKind = iota
	// Remove removes every line with the name.
	Remove
	// Set leaves exactly one line with the name.
	Set
	// Append adds a line.
	Append
)

// QueryChange is what becomes of a request's query.
type QueryChange uint8

const (
	// KeepQuery: it stays as it is.
	KeepQuery QueryChange = iota
	// RemoveQuery: the request goes out without one.
	RemoveQuery
	// SetQuery: it is replaced.
	SetQuery
)

// Changes is what an [Output] says.
type Changes struct {
	// Method, Path: nil if they stay.
	Method, Path *string
	Query        QueryChange
	// NewQuery is that of SetQuery.
	NewQuery string
	Headers  []HeaderChange
	// Body: nil if it stays, which an empty one is not.
	Body []byte
	// Err is what went wrong in making the output.
	Err error
}

// Output is one request to send, as changes to the request that came in: what is not mentioned stays as it was. Changes to headers are
// applied in the order of the calls.
type Output struct {
	changes Changes
}

// NewOutput is the request as it came in.
func NewOutput() *Output {
	return &Output{}
}

// Method is another method.
func (output *Output) Method(method string) *Output {
	output.changes.Method = &method
	return output
}

// Path is another path, which the gateway appends to the destination's.
func (output *Output) Path(path string) *Output {
	output.changes.Path = &path
	return output
}

// Query is another query: raw, without the question mark.
func (output *Output) Query(query string) *Output {
	output.changes.Query, output.changes.NewQuery = SetQuery, query
	return output
}

// RemoveQuery is no query.
func (output *Output) RemoveQuery() *Output {
	output.changes.Query, output.changes.NewQuery = RemoveQuery, ""
	return output
}

// Header leaves exactly one line with this name. The value may be any bytes.
func (output *Output) Header(name, value string) *Output {
	return output.change(HeaderChange{Set, name, value})
}

// AppendHeader adds a line, whatever is there already.
func (output *Output) AppendHeader(name, value string) *Output {
	return output.change(HeaderChange{Append, name, value})
}

// RemoveHeader removes every line with this name.
func (output *Output) RemoveHeader(name string) *Output {
	return output.change(HeaderChange{Kind: Remove, Name: name})
}

// ClearHeaders removes every header that came in. Headers set before this call go too.
func (output *Output) ClearHeaders() *Output {
	return output.change(HeaderChange{Kind: Clear})
}

func (output *Output) change(change HeaderChange) *Output {
	output.changes.Headers = append(output.changes.Headers, change)
	return output
}

// Body is another body.
func (output *Output) Body(body []byte) *Output {
	output.changes.Body = append([]byte{}, body...)
	return output
}

// JSON is a JSON body, with content-type: application/json. A value that has no JSON makes the plugin fail with not-serialisable.
func (output *Output) JSON(value any) *Output {
	body, err := marshal(value)
	if err != nil {
		output.changes.Err = err
		return output
	}
	output.changes.Body = body
	return output.Header("content-type", "application/json")
}

// Changes says what the output changes: for tests.
func (output *Output) Changes() Changes {
	return output.changes
}
