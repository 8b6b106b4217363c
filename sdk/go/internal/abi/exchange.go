//go:build wasip1

package abi

import (
	"time"
	"unsafe"

	"tidegate/plugin"
)

// Arrival is made of the parts in which the gateway hands it over.
func Arrival(method, path Pair, hasQuery uint32, query, headers, body Pair, receivedAt uint64, attributes Pair) *plugin.Arrival {
	return &plugin.Arrival{
		Request:    request(method, path, hasQuery, query, headers, body),
		ReceivedAt: moment(receivedAt),
		Attributes: attributes.attributes(),
	}
}

// attemptRecord and responseRecord are laid out as the canonical ABI lays out the WIT's.
type attemptRecord struct {
	delivery, event Pair
	number          uint32
	startedAt       uint64
	origin          Pair
	method, path    Pair
	query           optional
	headers, body   Pair
	attributes      Pair
}

type responseRecord struct {
	status                    uint32
	headers, body, attributes Pair
}

func at[T any](address uint32) *T {
	return (*T)(unsafe.Pointer(uintptr(address)))
}

// Attempt is what the gateway laid down at an address.
func Attempt(address uint32) *plugin.Attempt {
	given := at[attemptRecord](address)
	return &plugin.Attempt{
		DeliveryID: given.delivery.text(),
		EventID:    given.event.text(),
		Number:     int(given.number),
		StartedAt:  moment(given.startedAt),
		Origin:     given.origin.text(),
		Request:    request(given.method, given.path, given.query.some, given.query.value, given.headers, given.body),
		Attributes: given.attributes.attributes(),
	}
}

// Judged is an attempt that the gateway laid down at an address, and the answer to it behind it.
func Judged(address uint32) (*plugin.Attempt, *plugin.Response) {
	given := at[responseRecord](address + uint32(unsafe.Sizeof(attemptRecord{})))
	response := &plugin.Response{
		Status:     int(given.status & 0xffff),
		Headers:    given.headers.headers(),
		Body:       given.body.bytes(),
		Attributes: given.attributes.attributes(),
	}
	return Attempt(address), response
}

type verifiedAnswer struct {
	failed, verdict uint32
	reason          Pair
	_               Pair
}

// Verified answers for a verifier.
func Verified(verification plugin.Verification, failure *plugin.Failure) uint32 {
	if failure != nil {
		return failed(failure)
	}
	if verification.Accepted {
		return Address(&verifiedAnswer{})
	}
	return Address(&verifiedAnswer{verdict: 1, reason: lowerText(verification.Reason)})
}

type answeredAnswer struct {
	failed, some uint32
	response     responseRecord
}

// Answered answers for a responder.
func Answered(response *plugin.Response, failure *plugin.Failure) uint32 {
	if failure != nil {
		return failed(failure)
	}
	if response == nil {
		return Address(&answeredAnswer{})
	}
	record := responseRecord{status: uint32(response.Status), headers: lowerHeaders(response.Headers), body: lower(response.Body)}
	return Address(&answeredAnswer{some: 1, response: record})
}

// Headers answers for a signer.
func Headers(headers []plugin.Header, failure *plugin.Failure) uint32 {
	if failure != nil {
		return failed(failure)
	}
	return Address(&Answer{first: lowerHeaders(headers)})
}

func lowerHeaders(headers []plugin.Header) Pair {
	records := make([]headerRecord, len(headers))
	for i, header := range headers {
		records[i] = headerRecord{lowerText(header.Name), lower(header.Value)}
	}
	return lower(records)
}

// judgedAnswer holds the failure's code, message and retry, or the verdict with its reason or with whether there is a time, and the time.
type judgedAnswer struct {
	failed        uint64
	first, second Pair
	last          uint64
}

// Judgement answers for a judge.
func Judgement(judgement plugin.Judgement, failure *plugin.Failure) uint32 {
	if failure != nil {
		return Address(&judgedAnswer{1, lowerText(failure.Code), lowerText(failure.Message), uint64(failure.Retry)})
	}
	answer := &judgedAnswer{first: Pair{Address: uint32(judgement.Verdict)}}
	switch {
	case judgement.Verdict == plugin.VerdictRetry && judgement.After > 0:
		answer.second.Address = 1
		answer.last = uint64((judgement.After + time.Millisecond - 1) / time.Millisecond)
	case judgement.Verdict == plugin.VerdictDeadLetter:
		answer.second = lowerText(judgement.Reason)
	}
	return Address(answer)
}
