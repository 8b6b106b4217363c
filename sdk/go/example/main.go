// Turns a GitHub push into a chat message: {"text": "..."}, as Slack, Mattermost and Google Chat take it.
//
// Configuration, both optional: channel is sent along as "channel"; branches are those whose pushes are told of (default: all). What is
// not a push to a branch gives no output.
package main

import (
	"fmt"
	"slices"
	"strings"

	"tidegate/plugin"
	"tidegate/plugin/transform"
)

const listed = 5

func init() { transform.Export(pushToChat) }

func main() {}

type config struct {
	Channel  string   `json:"channel"`
	Branches []string `json:"branches"`
}

type push struct {
	Ref        string `json:"ref"`
	Deleted    bool   `json:"deleted"`
	Compare    string `json:"compare"`
	Repository struct {
		Name string `json:"full_name"`
		URL  string `json:"html_url"`
	} `json:"repository"`
	Pusher  person   `json:"pusher"`
	Commits []commit `json:"commits"`
}

type person struct {
	Name string `json:"name"`
}

type commit struct {
	ID      string `json:"id"`
	Message string `json:"message"`
	URL     string `json:"url"`
	Author  person `json:"author"`
}

type message struct {
	Text    string `json:"text"`
	Channel string `json:"channel,omitempty"`
}

func pushToChat(event *plugin.Event, host plugin.Host) ([]*plugin.Output, error) {
	if kind, _ := event.Request.Header("x-github-event"); kind != "push" {
		return nil, nil
	}
	var config config
	if err := plugin.Config(host, &config); err != nil {
		return nil, err
	}
	var push push
	if err := event.Request.JSON(&push); err != nil {
		return nil, err
	}
	if push.Ref == "" {
		return nil, plugin.Never("bad-payload", "the push has no ref")
	}
	branch, isBranch := strings.CutPrefix(push.Ref, "refs/heads/")
	if !isBranch {
		return nil, nil
	}
	if len(config.Branches) > 0 && !slices.Contains(config.Branches, branch) {
		host.Log(plugin.Info, "not told: a push to "+branch)
		return nil, nil
	}
	told := message{text(&push, branch), config.Channel}
	return []*plugin.Output{plugin.NewOutput().Method("POST").Path("").RemoveQuery().ClearHeaders().JSON(told)}, nil
}

func text(push *push, branch string) string {
	repository := link(push.Repository.URL, push.Repository.Name)
	who := escape(push.Pusher.Name)
	if push.Deleted {
		return fmt.Sprintf("%s deleted branch %s of %s", who, escape(branch), repository)
	}
	count := fmt.Sprintf("%d commits", len(push.Commits))
	if len(push.Commits) == 1 {
		count = "1 commit"
	}
	lines := []string{fmt.Sprintf("%s pushed %s to %s of %s", who, count, escape(branch), repository)}
	for _, commit := range push.Commits[:min(len(push.Commits), listed)] {
		title, _, _ := strings.Cut(commit.Message, "\n")
		id := commit.ID[:min(len(commit.ID), 7)]
		lines = append(lines, fmt.Sprintf("%s %s (%s)", link(commit.URL, id), escape(title), escape(commit.Author.Name)))
	}
	if more := len(push.Commits) - listed; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more: %s", more, link(push.Compare, "compare")))
	}
	return strings.Join(lines, "\n")
}

func link(url, text string) string {
	return "<" + escape(url) + "|" + escape(text) + ">"
}

// What people typed must not become mentions or links.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func escape(text string) string {
	return escaper.Replace(text)
}
