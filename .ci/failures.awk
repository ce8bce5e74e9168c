# Of the output of test programs: each failed test with the beginning and the end of what it says first.
function told() {
    if (name != "") {
        if (length(said) > 700) said = substr(said, 1, 400) " [...] " substr(said, length(said) - 299)
        print "- " name ": " said
    }
    name = ""
}
/^---- .* ----$/ { told(); name = $2; said = ""; lines = 0; next }
name != "" && (/^--- the end of/ || /^failures:/ || lines >= 4) { told() }
name != "" && NF { said = said (lines++ ? " | " : "") $0 }
END { told() }
