"""The values that users see: backends, policies, statistics and errors.

Every room may import these modules; they import none of the other rooms.
"""
