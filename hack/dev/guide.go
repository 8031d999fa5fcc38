package main

import (
	"fmt"
	"path/filepath"
)

// guide says what to type next. README.md tells the same at length.
func guide(s settings) {
	settings, namespace := fmt.Sprintf("export KUBECONFIG=%s DOCKER_CONFIG=%s", filepath.Join(s.dir, "kubeconfig"), filepath.Join(s.dir, "docker")), ""
	if s.cluster {
		settings, namespace = "export DOCKER_CONFIG="+filepath.Join(s.dir, "docker"), " -n team-a"
	}
	fmt.Printf(guideFormat, s.registry, s.show(filepath.Join(s.dir, "admin-password")), settings, namespace, s.show(filepath.Join(s.dir, "logs")))
}

// guideFormat takes the registry's address, the file of the password, the settings of the clients, the option of kubectl
// for the namespace and the folder of the logs.
const guideFormat = `
The registry is http://%[1]s (user admin, password in %[2]s). In another terminal:

  %[3]s
  bin/crane auth login %[1]s -u admin -p "$(cat %[2]s)"
  make image && bin/crane push dist/image %[1]s/team-a/tidelock:v1.0.0

  bin/kubectl get impol%[4]s    # the sample policy "releases" has locked the tag as it came
  bin/kubectl events%[4]s
  curl -s -u "admin:$(cat %[2]s)" http://%[1]s/api/v1/organization/team-a/logs

  bin/crane mutate --label changed=yes %[1]s/team-a/tidelock:v1.0.0   # refused
  bin/crane delete %[1]s/team-a/tidelock:v1.0.0                       # refused
  bin/crane delete %[1]s/team-a/tidelock@$(bin/crane digest %[1]s/team-a/tidelock:v1.0.0)   # refused
  bin/crane pull %[1]s/team-a/tidelock:v1.0.0 /dev/null               # works

README.md goes on from there. The logs of all programs are in %[5]s. Ctrl-C stops everything.
`
