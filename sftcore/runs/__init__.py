"""A run from its configuration to the exported model: preparation, the session around the training, the record.

In: a configuration document, a registry, requests to stop. Out: status lines, ``run.json``, the model in its folder.
It must not know how rows are labelled, batches built or steps taken; it only calls those who do, in order.
"""
