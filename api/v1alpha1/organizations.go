package v1alpha1

import "strings"

// AnyOrganization in the annotation permits policies for every organization.
const AnyOrganization = "*"

// ClaimedOrganizations reads the annotation of a namespace by which it claims organizations beside the one of its own
// name. Blanks and empty names do not count.
func ClaimedOrganizations(annotations map[string]string) []string {
	var names []string
	for name := range strings.SplitSeq(annotations[OrganizationsAnnotation], ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}
