package plugin

import (
	"bytes"
	"encoding/json"
	"time"
)

// Arrival is a request that has come in and is not accepted yet, with all its headers, credentials too.
type Arrival struct {
	Request Request
	// ReceivedAt is when it came, to the millisecond.
	ReceivedAt time.Time
	// Attributes are empty in version 1.1. Ignore names that you do not know.
	Attributes []Attribute
}

// Attempt is one HTTP request of a delivery.
type Attempt struct {
	// DeliveryID is dlv_ and 26 characters, sent as webhook-id: the same on every attempt.
	DeliveryID string
	// EventID is evt_ and 26 characters.
	EventID string
	// Number is 1 for the first.
	Number int
	// StartedAt is when it began, to the millisecond.
	StartedAt time.Time
	// Origin is where it goes, without path and query: https://api.example.com.
	Origin string
	// Request is what goes out: path and query as they are sent, the headers of the event or of the plugins before, the body.
	Request Request
	// Attributes are empty in version 1.1. Ignore names that you do not know.
	Attributes []Attribute
}

// Response is an answer to a request: a destination's, whose body may be cut short, or one that the plugin makes.
type Response struct {
	// Status is 200 to 599.
	Status int
	// Headers are in order, repeated ones repeated.
	Headers []Header
	Body    []byte
	// Attributes are empty in version 1.1.
	Attributes []Attribute

	err error
}

// TextResponse is an answer with a body of plain text.
func TextResponse(status int, text string) *Response {
	response := &Response{Status: status, Body: []byte(text)}
	return response.WithHeader("content-type", "text/plain; charset=utf-8")
}

// JSONResponse is an answer with a JSON body. A value that has no JSON makes the plugin fail with not-serialisable.
func JSONResponse(status int, value any) *Response {
	body, err := marshal(value)
	response := &Response{Status: status, Body: body, err: err}
	return response.WithHeader("content-type", "application/json")
}

// WithHeader adds a line, whatever is there already. The value may be any bytes.
func (response *Response) WithHeader(name, value string) *Response {
	response.Headers = append(response.Headers, Header{name, []byte(value)})
	return response
}

// HeaderValues gives every value of a header, in order; the name's case does not matter.
func (response *Response) HeaderValues(name string) [][]byte {
	return headerValues(response.Headers, name)
}

// Header gives the first value of a header, if it is UTF-8, and whether there is one; the name's case does not matter.
func (response *Response) Header(name string) (string, bool) {
	return firstHeader(response.Headers, name)
}

// JSON reads the body into what value points to. Its error is the failure not-json, which no retry can help.
func (response *Response) JSON(value any) error {
	return readJSON(response.Body, value)
}

// Verification says whether a request is the sender's. The zero one says that it is not.
type Verification struct {
	// Accepted: an event is made of it.
	Accepted bool
	// Reason is why it is not, for the operator's log; the sender is answered 401.
	Reason string
}

// Accept says that the request is the sender's.
func Accept() Verification {
	return Verification{Accepted: true}
}

// Reject says that it is not.
func Reject(reason string) Verification {
	return Verification{Reason: reason}
}

// Verdict is what a destination's answer means.
type Verdict uint8

const (
	// VerdictDefault: what the gateway would make of it.
	VerdictDefault Verdict = iota
	// VerdictDelivered: the delivery is done.
	VerdictDelivered
	// VerdictRetry: it is to be tried again.
	VerdictRetry
	// VerdictDeadLetter: it is given up.
	VerdictDeadLetter
)

// Judgement says what becomes of a delivery. The zero one leaves it to the gateway.
type Judgement struct {
	Verdict Verdict
	// After is the least time before it is tried again; 0 leaves it to the retry policy.
	After time.Duration
	// Reason is why it is given up.
	Reason string
}

// Delivered says that the delivery is done.
func Delivered() Judgement {
	return Judgement{Verdict: VerdictDelivered}
}

// RetryAfter says that it is to be tried again: by the retry policy, and not before this time, to the millisecond, unless it is 0.
func RetryAfter(after time.Duration) Judgement {
	return Judgement{Verdict: VerdictRetry, After: after}
}

// DeadLetter says that it is given up.
func DeadLetter(reason string) Judgement {
	return Judgement{Verdict: VerdictDeadLetter, Reason: reason}
}

// marshal is a value's JSON, as short as it can be.
func marshal(value any) ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, Never("not-serialisable", err.Error())
	}
	return bytes.TrimSuffix(body.Bytes(), []byte("\n")), nil
}
