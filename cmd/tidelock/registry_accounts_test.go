package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("tidelock registry user|org|robot", func() {
	var dir, url string
	file := func(name, content string) string {
		GinkgoHelper()
		path := filepath.Join(dir, name)
		Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
		return path
	}
	// as runs a command as an account with a password or token.
	as := func(name, secret string, arguments ...string) (out, messages string, err error) {
		GinkgoHelper()
		cmd := command(append(append([]string{"registry"}, arguments...), "--registry", url, "--username", name, "--password-file", file("secret-of-"+name, secret+"\n"))...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err = cmd.Run()
		return strings.TrimSuffix(stdout.String(), "\n"), stderr.String(), err
	}
	admin := func(arguments ...string) string {
		GinkgoHelper()
		out, messages, err := as("admin", "admin's password", arguments...)
		Expect(err).NotTo(HaveOccurred(), messages)
		return out
	}

	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		r, err := registry.New(registry.Config{
			DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: file("password", "admin's password"), Logger: slog.New(slog.DiscardHandler),
		})
		Expect(err).NotTo(HaveOccurred())
		url = r.URL()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		DeferCleanup(func() {
			stop()
			Eventually(done).WithTimeout(30 * time.Second).Should(Receive(BeNil()))
		})
	})

	It("make, show, change and remove users and their tokens", func() {
		made := admin("user", "create", "alice", "--email", "alice@example.com")
		Expect(made).To(HavePrefix("tdl_"), "the password stands alone on its line")
		admin("user", "create", "bob", "--new-password-file", file("bob", "bob's password\n"))
		Expect(strings.Fields(admin("user", "list"))).To(ContainElements("alice", "alice@example.com", "bob", "enabled", "never"))
		var list openapi.UserList
		Expect(json.Unmarshal([]byte(admin("user", "list", "--json")), &list)).To(Succeed())
		Expect(list.Users).To(HaveLen(2))

		token, messages, err := as("bob", "bob's password", "user", "token", "create", "laptop")
		Expect(err).NotTo(HaveOccurred(), messages)
		Expect(token).To(HavePrefix("tdl_"))
		out, _, err := as("bob", "bob's password", "user", "token", "list", "--json")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).NotTo(ContainSubstring(token))
		var tokens openapi.AppTokenList
		Expect(json.Unmarshal([]byte(out), &tokens)).To(Succeed())
		Expect(tokens.Tokens).To(HaveLen(1))
		_, _, err = as("bob", "bob's password", "user", "token", "revoke", tokens.Tokens[0].UUID)
		Expect(err).NotTo(HaveOccurred())
		out, _, err = as("bob", "bob's password", "user", "token", "list")
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Split(out, "\n")).To(HaveLen(1))

		admin("user", "password", "bob", "--new-password-file", file("bob", "bob's other password"))
		_, messages, err = as("bob", "bob's password", "user", "token", "list")
		Expect(err).To(HaveOccurred())
		Expect(messages).To(ContainSubstring("the credentials are wrong"))
		admin("user", "disable", "bob")
		_, _, err = as("bob", "bob's other password", "user", "token", "list")
		Expect(err).To(HaveOccurred())
		admin("user", "enable", "bob")
		_, _, err = as("bob", "bob's other password", "user", "token", "list")
		Expect(err).NotTo(HaveOccurred())
		admin("user", "delete", "bob")
		Expect(admin("user", "list")).NotTo(ContainSubstring("bob"))
	})

	It("make, show and remove organizations, members and robots", func() {
		admin("org", "create", "team-a")
		Expect(admin("org", "list")).To(ContainSubstring("team-a"))
		admin("user", "create", "alice")
		admin("org", "member", "set", "team-a", "alice", "creator")
		Expect(strings.Fields(admin("org", "member", "list", "team-a"))).To(ContainElements("alice", "creator"))
		admin("org", "member", "remove", "team-a", "alice")
		Expect(admin("org", "member", "list", "team-a")).NotTo(ContainSubstring("alice"))

		token := admin("robot", "create", "team-a+ci", "--description", "builds")
		Expect(token).To(HavePrefix("tdl_"))
		Expect(admin("robot", "list", "team-a")).To(And(ContainSubstring("team-a+ci"), ContainSubstring("builds"), Not(ContainSubstring(token))))
		rotated := admin("robot", "rotate", "team-a+ci")
		Expect(rotated).To(And(HavePrefix("tdl_"), Not(Equal(token))))
		admin("robot", "delete", "team-a+ci")
		Expect(admin("robot", "list", "team-a")).NotTo(ContainSubstring("team-a+ci"))
		admin("org", "delete", "team-a")
		Expect(admin("org", "list")).NotTo(ContainSubstring("team-a"))
	})

	DescribeTable("say what is wrong", func(want string, arguments ...string) {
		_, messages, err := as("admin", "admin's password", arguments...)
		Expect(err).To(HaveOccurred())
		Expect(messages).To(ContainSubstring(want))
	},
		Entry("of a robot's name", `"team-a" is not the name of a robot`, "robot", "create", "team-a"),
		Entry("of a role", "use admin, creator or member", "org", "member", "set", "team-a", "alice", "king"),
		Entry("of what is not there", "user nobody does not exist", "user", "delete", "nobody"),
		Entry("of a missing password", "--new-password-file is required", "user", "password", "alice"),
		Entry("of an argument too many", "accepts 1 arg(s)", "org", "create", "a", "b"),
	)

	It("need a password, and say nothing of the settings of a registry in their help", func() {
		out, err := command("registry", "robot", "rotate", "team-a+ci", "--registry", url).CombinedOutput()
		Expect(err).To(HaveOccurred())
		Expect(string(out)).To(ContainSubstring("--password-file is required"))
		out, err = command("registry", "user", "token", "create", "--help").CombinedOutput()
		Expect(err).NotTo(HaveOccurred())
		Expect(string(out)).To(And(ContainSubstring("--username"), Not(ContainSubstring("--blob-store"))))
	})
})
