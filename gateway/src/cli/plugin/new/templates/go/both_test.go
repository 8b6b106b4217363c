package main

import (
	"testing"

	"tidegate/plugin/plugintest"
)

const (
	opened = `{"action": "opened", "issue": {"title": "it leaks"}}`
	closed = `{"action": "closed", "issue": {"title": "it leaks"}}`
)

func TestNewIssuesGoOnAndNothingElse(t *testing.T) {
	for body, expected := range map[string]bool{opened: true, closed: false} {
		if kept, err := isNewIssue(plugintest.Event(body), &plugintest.Host{}); err != nil || kept != expected {
			t.Errorf("%s: %v, %v", body, kept, err)
		}
	}
}

func TestNewIssuesAreAnnouncedAndNothingElse(t *testing.T) {
	outputs, err := announce(plugintest.Event(opened), &plugintest.Host{})
	if err != nil || len(outputs) != 1 {
		t.Fatal(outputs, err)
	}
	if body := string(outputs[0].Changes().Body); body != `{"text":"new issue: it leaks"}` {
		t.Error(body)
	}
	if outputs, err := announce(plugintest.Event(closed), &plugintest.Host{}); err != nil || len(outputs) != 0 {
		t.Error(outputs, err)
	}
}
